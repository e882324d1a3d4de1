"""Force metrics against numbers worked out by hand."""

import numpy as np
import pytest

from cg_eval.force_metrics import METRICS, chain_positions, errors_by_group, force_sums, metrics, skill

REFERENCE = np.array([[[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
PREDICTED = np.array([[[3.0, 0.0, 4.0], [0.0, -4.0, 0.0]]])


def of(predicted, reference):
    return metrics(force_sums(predicted, reference).sum(axis=(0, 1)))


def test_metrics_equal_hand_computed_values():
    values = of(PREDICTED, REFERENCE)
    assert values["mse"] == pytest.approx((16.0 + 64.0) / 6)
    assert values["rmse"] == pytest.approx(np.sqrt(80.0 / 6))
    assert values["mae"] == pytest.approx(12.0 / 6)
    assert values["cosine"] == pytest.approx((3.0 / 5.0 - 1.0) / 2)
    assert values["reference_rms"] == pytest.approx(np.sqrt(25.0 / 6))
    mean = 7.0 / 6
    assert values["r2"] == pytest.approx(1.0 - 80.0 / (25.0 - 6 * mean**2))
    assert values["pearson"] == pytest.approx(np.corrcoef(PREDICTED.ravel(), REFERENCE.ravel())[0, 1])


def test_perfect_prediction_has_no_error_and_correlation_one():
    values = of(REFERENCE, REFERENCE)
    assert values["mse"] == 0
    assert values["pearson"] == pytest.approx(1)
    assert values["r2"] == pytest.approx(1)
    assert values["cosine"] == pytest.approx(1)


def test_zero_model_has_the_reference_rms_as_error_and_no_correlation():
    values = of(np.zeros_like(REFERENCE), REFERENCE)
    assert values["rmse"] == values["reference_rms"]
    assert np.isnan(values["pearson"])
    assert values["cosine"] == 0


def test_sums_add_up_over_frames():
    generator = np.random.default_rng(0)
    predicted, reference = generator.normal(size=(2, 6, 4, 3))
    whole = of(predicted, reference)
    split = metrics(sum(force_sums(predicted[k : k + 2], reference[k : k + 2]).sum(axis=(0, 1)) for k in (0, 2, 4)))
    for name in METRICS:
        assert split[name] == pytest.approx(whole[name], rel=1e-12)


def test_groups_separate_components_magnitudes_and_beads():
    groups = errors_by_group(PREDICTED, REFERENCE, {"first": np.array([True, False]), "none": np.array([False, False])})
    assert set(groups) == {"all", "component/x", "component/y", "component/z", "magnitude", "first"}
    assert metrics(groups["component/z"].sums[0])["mse"] == pytest.approx(16.0 / 2)
    assert metrics(groups["magnitude"].sums[0])["mse"] == pytest.approx((5.0 - 3.0) ** 2 / 2)
    assert groups["all"].maximum[0] == 8.0
    assert groups["first"].maximum[0] == 4.0
    assert metrics(groups["first"].sums[0])["mse"] == pytest.approx(16.0 / 3)


def test_skill_is_zero_for_the_prior_and_one_at_the_floor():
    assert skill(100.0, 100.0, 40.0) == 0
    assert skill(100.0, 40.0, 40.0) == 1
    assert skill(100.0, 70.0, 40.0) == pytest.approx(0.5)


def test_termini_are_counted_from_both_ends_of_each_segment():
    at_end = chain_positions([5, 6, 7, 8, 9, 1, 2, 3], [0, 0, 0, 0, 0, 1, 1, 1], terminal=1)
    assert at_end.tolist() == [True, False, False, False, True, True, False, True]
