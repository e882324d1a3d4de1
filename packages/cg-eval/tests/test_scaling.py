"""Scaling laws recovered from exact, noisy and published times."""

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_eval.scaling import fit_scaling, read_times


def test_amdahl_recovers_an_exact_serial_fraction():
    n = np.array([1, 2, 4, 8, 16])
    fit = fit_scaling(n, 100.0 * (0.07 + 0.93 / n))
    assert fit.amdahl.estimate == pytest.approx(0.07)
    assert fit.amdahl.high - fit.amdahl.low < 1e-6


def test_gustafson_recovers_an_exact_serial_fraction():
    n = np.array([1, 2, 4, 8, 16])
    assert fit_scaling(n, 50.0 / (n - 0.1 * (n - 1))).gustafson.estimate == pytest.approx(0.1)


def test_interval_of_noisy_times_covers_the_truth_about_as_often_as_it_says():
    n, generator, covered = np.array([1, 2, 4, 8, 16, 32]), np.random.default_rng(0), 0
    for _ in range(300):
        fit = fit_scaling(n, (0.05 + 0.95 / n) * (1 + 0.01 * generator.normal(size=6))).amdahl
        covered += fit.low <= 0.05 <= fit.high
    assert 0.90 <= covered / 300 <= 0.99


@pytest.mark.parametrize(("minutes", "efficiency", "serial"), [(1.89, 0.8126, 0.01003), (1.598, 0.9611, 0.00176)])
def test_published_times_on_24_gpus_give_the_published_efficiencies(minutes, efficiency, serial):
    fit = fit_scaling([1, 24], [36.86, minutes])
    assert fit.efficiency[1] == pytest.approx(efficiency, abs=1e-4)
    assert fit.amdahl.estimate == pytest.approx(serial, abs=1e-5)
    assert fit.amdahl.low is None
    assert "no interval" in fit.table()


def test_times_are_read_fitted_and_drawn(tmp_path):
    (tmp_path / "times.csv").write_text("devices,time\n4,11.0\n1,40.0\n2,20.5\n")
    fit = fit_scaling(*read_times(tmp_path / "times.csv"))
    assert fit.devices == (1, 2, 4)
    fit.save(tmp_path / "out")
    assert (tmp_path / "out/scaling.png").stat().st_size > 0


def test_bad_times_are_refused(tmp_path):
    with pytest.raises(UserError, match="two or more numbers of devices"):
        fit_scaling([4, 4], [1.0, 1.1])
    (tmp_path / "times.csv").write_text("gpus,time\n1,2\n")
    with pytest.raises(UserError, match="columns devices and time"):
        read_times(tmp_path / "times.csv")
