import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_priors.geometry import bend_angle, dihedral_angle, distance, feature_gradient
from cg_priors.safe import masked, safe_root

FEATURES = [(distance, 2), (bend_angle, 3), (dihedral_angle, 4)]
STRAIGHT = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
FOLDED_BACK = np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
HALF_STRAIGHT = np.array([[0.0, 1, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
COINCIDENT = np.zeros((4, 3))


def test_right_angle_and_handedness():
    corner = np.array([[1.0, 0, 0], [0, 0, 0], [0, 2, 0]])
    assert bend_angle(corner) == pytest.approx(np.pi / 2)
    # Looking along the middle bond, the far bond is turned clockwise by 90 degrees: +90 in the IUPAC sense.
    turned = np.array([[0.0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 1]])
    assert dihedral_angle(turned) == pytest.approx(np.pi / 2)
    trans = np.array([[0.0, 1, 0], [0, 0, 0], [1, 0, 0], [1, -1, 0]])
    assert abs(dihedral_angle(trans)) == pytest.approx(np.pi)


def test_right_handed_helix_has_positive_dihedral():
    turn = np.radians(100) * np.arange(4)
    helix = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(4)], 1)
    assert np.degrees(dihedral_angle(helix)) == pytest.approx(50, abs=3)


@pytest.mark.parametrize(("feature", "width"), FEATURES)
def test_numpy_and_jax_agree(feature, width, random):
    points = random.normal(size=(20, width, 3))
    ours = feature(points)
    assert isinstance(ours, np.ndarray)
    np.testing.assert_allclose(ours, feature(jnp.asarray(points)), rtol=1e-12)


@pytest.mark.parametrize(("feature", "width"), FEATURES)
def test_gradients_equal_central_differences_and_the_closed_form(feature, width, random):
    points = random.normal(size=(20, width, 3))
    gradient = np.asarray(jax.vmap(jax.grad(feature))(jnp.asarray(points)))
    h = 1e-6
    for corner in range(width):
        for axis in range(3):
            step = np.zeros_like(points)
            step[:, corner, axis] = h
            difference = feature(points + step) - feature(points - step)
            if feature is dihedral_angle:
                difference = np.angle(np.exp(1j * difference))
            np.testing.assert_allclose(gradient[:, corner, axis], difference / (2 * h), atol=1e-6)
    np.testing.assert_allclose(feature_gradient(points), gradient, atol=1e-9)


@pytest.mark.parametrize(("feature", "width"), FEATURES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", [STRAIGHT, FOLDED_BACK, HALF_STRAIGHT, COINCIDENT])
def test_gradients_are_finite_at_degenerate_points(feature, width, dtype, shape):
    points = jnp.asarray(shape[:width], dtype)
    value, gradient = jax.value_and_grad(feature)(points)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()
    assert gradient.dtype == dtype
    assert np.isfinite(feature_gradient(np.asarray(points, np.float64)[None])).all()


@pytest.mark.parametrize("offset", [1e-3, 1e-5, 1e-8, 1e-12, 1e-20])
def test_gradients_are_finite_near_a_straight_line_in_float32(offset):
    points = jnp.asarray(STRAIGHT, jnp.float32).at[1, 1].set(offset)
    for feature, width in FEATURES:
        assert jnp.isfinite(jax.grad(feature)(points[:width])).all()


def test_angle_keeps_its_digits_near_pi_in_float32():
    bend = 1e-3
    points = jnp.asarray([[-1.0, 0, 0], [0, 0, 0], [np.cos(bend), np.sin(bend), 0]], jnp.float32)
    assert np.pi - float(bend_angle(points)) == pytest.approx(bend, rel=1e-3)


def test_masked_has_zero_gradient_where_the_mask_is_false():
    x = jnp.array([0.0, 4.0])
    gradient = jax.grad(lambda v: masked(jnp.sqrt, v > 0, v).sum())(x)
    np.testing.assert_array_equal(gradient, [0, 0.25])
    assert jax.grad(safe_root)(0.0) == 0
