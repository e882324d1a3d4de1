"""Divergences, distances and free energies against closed forms."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from cg_data.errors import UserError
from cg_data.units import thermal_energy
from cg_eval.distributions import LARGEST_DIVERGENCE, Bins, free_energy, free_energy_surface, overlap, wasserstein
from cg_priors.divergence import js_divergence


def gaussian(bins, mean, width):
    return np.exp(-0.5 * ((bins.centres - mean) / width) ** 2)


def test_js_divergence_of_equal_distributions_is_zero():
    assert js_divergence([1, 2, 3], [2, 4, 6]) == 0


def test_js_divergence_of_disjoint_distributions_is_ln_two():
    assert js_divergence([1, 0], [0, 5]) == pytest.approx(LARGEST_DIVERGENCE)


def test_js_divergence_equals_its_hand_computed_value():
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): 1/2 ln(4/3) + 1/2 (1/2 ln(2/3) + 1/2 ln 2)
    expected = 0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3) + 0.25 * np.log(2)
    assert js_divergence([1, 0], [1, 1]) == pytest.approx(expected)


def test_js_divergence_of_two_gaussians_equals_numerical_integration():
    bins = Bins(-8, 8, 400)
    x = np.linspace(-8, 8, 200_001)
    p, q = (np.exp(-0.5 * (x - m) ** 2) / np.sqrt(2 * np.pi) for m in (0.0, 1.0))
    mean = 0.5 * (p + q)
    exact = 0.5 * np.trapezoid(p * np.log(p / mean), x) + 0.5 * np.trapezoid(q * np.log(q / mean), x)
    assert js_divergence(gaussian(bins, 0, 1), gaussian(bins, 1, 1)) == pytest.approx(exact, abs=1e-4)


def test_js_divergence_is_symmetric():
    p, q = np.random.default_rng(0).random((2, 20))
    assert js_divergence(p, q) == pytest.approx(js_divergence(q, p))


def test_overlap_of_half_shared_distributions_is_a_half():
    assert overlap([1, 1, 0], [0, 1, 1]) == pytest.approx(0.5)


def test_values_outside_the_range_fall_into_the_end_bins_and_are_reported():
    bins = Bins(0, 1, 4)
    values = np.array([-5.0, 0.1, 0.9, 1.0, 7.0])
    assert bins.counts(values).tolist() == [2, 0, 0, 3]
    assert bins.outside(values) == pytest.approx(0.4)


def test_non_finite_values_are_refused():
    with pytest.raises(UserError, match="finite"):
        Bins(0, 1, 4).counts(np.array([0.5, np.nan]))


def test_wasserstein_of_a_shifted_sample_is_the_shift():
    sample = np.random.default_rng(0).normal(size=300)
    assert wasserstein(sample, sample + 0.7) == pytest.approx(0.7)


def test_wasserstein_equals_the_established_implementation():
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=200), generator.gamma(2.0, size=333)
    assert wasserstein(first, second) == pytest.approx(wasserstein_distance(first, second))


def test_wasserstein_on_a_circle_takes_the_short_way_round():
    first, second = np.full(50, np.pi - 0.1), np.full(50, -np.pi + 0.1)
    assert wasserstein(first, second, period=2 * np.pi) == pytest.approx(0.2)
    assert wasserstein(first, second) == pytest.approx(2 * np.pi - 0.2)


def test_free_energy_of_a_double_well_is_recovered():
    bins, temperature = Bins(-2, 2, 80), 300.0
    potential = (bins.centres**2 - 1) ** 2
    found = free_energy(np.exp(-potential / thermal_energy(temperature)), bins, temperature)
    np.testing.assert_allclose(found, potential - potential.min(), atol=1e-9)


@pytest.mark.parametrize(("feature", "bins", "jacobian"), [("bond", Bins(3, 5, 40), lambda r: r**2), ("angle", Bins(0.5, 2.5, 40), np.sin)])
def test_free_energy_divides_out_the_jacobian(feature, bins, jacobian):
    potential = 2.0 * (bins.centres - bins.centres.mean()) ** 2
    density = jacobian(bins.centres) * np.exp(-potential / thermal_energy(350.0))
    np.testing.assert_allclose(free_energy(density, bins, 350.0, feature), potential - potential.min(), atol=1e-9)


def test_empty_bins_have_no_free_energy():
    assert np.isnan(free_energy([1, 0, 1], Bins(0, 3, 3), 300.0)).tolist() == [False, True, False]


def test_free_energy_surface_of_independent_gaussians_is_a_sum_of_parabolas():
    x, y = np.random.default_rng(0).normal(size=(2, 400_000))
    bins = Bins(-1.5, 1.5, 10)
    surface = free_energy_surface(x, y, bins, bins, 300.0)
    expected = 0.5 * thermal_energy(300.0) * (bins.centres[:, None] ** 2 + bins.centres[None] ** 2)
    inner = slice(1, -1)
    np.testing.assert_allclose(surface[inner, inner] - surface[4, 4], (expected - expected[4, 4])[inner, inner], atol=0.05)
