from pathlib import Path

from cg_train.metrics import Journal, plot_losses, read_metrics


def test_reopening_drops_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, -1)
    for step in (0, 5, 10, 15):
        journal.write({"step": step})
    journal.close()
    with open(path, "a") as file:
        file.write('{"step": 20, "tr')
    journal = Journal(path, 10)
    journal.write({"step": 15})
    journal.close()
    assert [record["step"] for record in read_metrics(path)] == [0, 5, 10, 15]


def test_a_written_line_survives_a_crash_that_closes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl", -1)
    journal.write({"step": 1})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]
    journal.close()


def test_another_runs_history_is_taken_up_to_the_step(tmp_path: Path) -> None:
    first = Journal(tmp_path / "first.jsonl", -1)
    for step in range(5):
        first.write({"step": step})
    first.close()
    Journal(tmp_path / "second.jsonl", 2, tmp_path / "first.jsonl").close()
    assert [record["step"] for record in read_metrics(tmp_path / "second.jsonl")] == [0, 1, 2]


def test_the_plot_is_drawn_whatever_there_is_to_draw(tmp_path: Path) -> None:
    for name, records in (
        ("empty", []),
        ("training", [{"step": 0, "train_zero_mse": 9.0}, {"step": 1, "train_mse": 4.0}]),
        ("all", [{"step": 0, "train_zero_mse": 9.0, "validation_prior_mse": 5.0}, {"step": 1, "train_mse": 4.0, "validation_mse": 4.1}]),
    ):
        journal = Journal(tmp_path / f"{name}.jsonl", -1)
        for record in records:
            journal.write(record)
        journal.close()
        plot_losses(tmp_path / f"{name}.jsonl", tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
