"""Scaling laws recovered from exact, noisy and published times."""

import json

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_eval.scaling import fit_scaling, read_runs, read_times, read_timings


def test_amdahl_recovers_an_exact_serial_fraction():
    n = np.array([1, 2, 4, 8, 16])
    fit = fit_scaling(n, 100.0 * (0.07 + 0.93 / n))
    assert fit.amdahl.estimate == pytest.approx(0.07)
    assert fit.amdahl.high - fit.amdahl.low < 1e-6


def test_gustafson_recovers_an_exact_serial_fraction():
    n = np.array([1, 2, 4, 8, 16])
    assert fit_scaling(n, 50.0 / (n - 0.1 * (n - 1))).gustafson.estimate == pytest.approx(0.1)


@pytest.mark.parametrize("devices", [(1, 2, 4, 8, 16, 32), (1, 1, 1, 2, 2, 4, 4, 8, 8), (4, 8, 16, 32)])
@pytest.mark.parametrize(
    ("law", "time"), [("amdahl", lambda n: 0.05 + 0.95 / n), ("gustafson", lambda n: 1 / (n - 0.05 * (n - 1)))], ids=["amdahl", "gustafson"]
)
def test_interval_of_noisy_times_covers_the_truth_about_as_often_as_it_says(law, time, devices):
    n, generator, covered = np.array(devices), np.random.default_rng(0), 0
    for _ in range(300):
        fit = getattr(fit_scaling(n, time(n) * (1 + 0.01 * generator.normal(size=len(n)))), law)
        covered += fit.low <= 0.05 <= fit.high
    assert 0.90 <= covered / 300 <= 0.99


def test_laws_and_measured_speed_ups_meet_where_no_run_was_on_one_device(monkeypatch):
    import cg_eval.plots as plots

    drawn = []
    monkeypatch.setattr(plots, "finish", lambda figure, *_: drawn.append(figure))
    n = np.array([4, 8, 16])
    fit = fit_scaling(n, 10.0 * (0.2 + 0.8 / n))
    assert fit.amdahl.estimate == pytest.approx(0.2)
    plots.plot_scaling(fit, None)
    _, amdahl, _, measured = drawn[0].axes[0].lines
    assert amdahl.get_label().startswith("Amdahl")
    np.testing.assert_allclose([amdahl.get_ydata()[0], amdahl.get_ydata()[-1]], np.array(measured.get_ydata())[[0, -1]])


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


def test_the_order_of_repeats_changes_nothing_and_the_baseline_is_their_mean():
    first, second = fit_scaling([1, 1, 2, 4], [40.0, 44.0, 22.0, 12.0]), fit_scaling([1, 4, 1, 2], [44.0, 12.0, 40.0, 22.0])
    assert first.gustafson.estimate == pytest.approx(second.gustafson.estimate)
    assert first.amdahl.estimate == pytest.approx(second.amdahl.estimate)
    assert sorted(first.speedup) == sorted(second.speedup) == pytest.approx([42 / 44, 42 / 40, 42 / 22, 42 / 12])


def test_every_file_given_counts_and_files_do_not_mix_with_runs(tmp_path):
    for name, text in (("a", "4,11.0\n1,40.0\n"), ("b", "2,20.5\n")):
        (tmp_path / f"{name}.csv").write_text(f"devices,time\n{text}")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert read_timings(files) == ([4, 1, 2], [11.0, 40.0, 20.5])
    run = write_run(tmp_path / "run", 2, 100.0)
    assert read_timings([run]) == read_runs([run])
    with pytest.raises(UserError, match="all folders or all CSV files"):
        read_timings([*files, run])


@pytest.mark.parametrize("time", ["inf", "nan", "-2", "0"])
def test_a_time_that_is_no_positive_number_is_refused_with_its_file(tmp_path, time):
    (tmp_path / "times.csv").write_text(f"devices,time\n1,40\n2,{time}\n")
    with pytest.raises(UserError, match=r"times\.csv: .*positive.*received 2 and "):
        read_times(tmp_path / "times.csv")
    with pytest.raises(UserError, match="times positive and finite"):
        fit_scaling([1, 2], [40.0, float(time)])


def test_bad_times_are_refused(tmp_path):
    with pytest.raises(UserError, match="two or more numbers of devices"):
        fit_scaling([4, 4], [1.0, 1.1])
    (tmp_path / "times.csv").write_text("gpus,time\n1,2\n")
    with pytest.raises(UserError, match="columns devices and time"):
        read_times(tmp_path / "times.csv")


def write_run(folder, devices, frames_per_second, n_frames=1000, frames_per_batch=10):
    """Logs of 300 steps; the first line is slow, for the compilation is in it."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"frames_per_batch: {frames_per_batch}\n")
    lines = [{"step": 0, "train_zero_mse": 1.0}]
    for step in (100, 200, 300):
        rate = frames_per_second / 50 if step == 100 else frames_per_second
        lines.append({"step": step, "epoch": step * frames_per_batch / n_frames, "frames_per_second": rate, "devices": devices})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_logs_of_runs_on_the_published_numbers_of_gpus_give_the_published_table(tmp_path):
    """36.86 minutes an epoch on 1 GPU, 1.598 on 24: here 1000 frames an epoch."""
    runs = [write_run(tmp_path / str(n), n, 1000 / (60 * minutes)) for n, minutes in ((24, 1.598), (1, 36.86))]
    devices, minutes = read_runs(runs)
    assert devices == [24, 1]
    assert minutes == pytest.approx([1.598, 36.86])
    assert fit_scaling(devices, minutes).efficiency[1] == pytest.approx(0.961, abs=1e-3)


def test_the_torn_last_line_of_a_killed_run_counts_as_nothing(tmp_path):
    folder = write_run(tmp_path / "run", 2, 100.0)
    expected = read_runs([folder])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 400, "epo')
    assert read_runs([folder]) == expected


def test_a_run_that_logged_too_little_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", 2, 100.0)
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in (folder / "metrics.jsonl").read_text().splitlines()[:2]))
    with pytest.raises(UserError, match="log more often"):
        read_runs([folder])
    with pytest.raises(UserError, match="output folder of cg-train run"):
        read_runs([tmp_path])
