import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cg_data.errors import UserError
from cg_data.workers import spread

SLEEPERS = "import time; from cg_data.workers import spread; list(spread(time.sleep, [300, 300], 2, 'here'))"


def test_results_carry_the_number_of_their_task():
    assert list(spread(abs, [-3, 4], 1, "here")) == [(0, 3), (1, 4)]
    assert sorted(spread(abs, [-3, 4, -5], 2, "here")) == [(0, 3), (1, 4), (2, 5)]


def test_a_worker_ended_from_outside_is_one_line_that_says_how_to_go_on():
    with pytest.raises(UserError, match=r"^here: a worker process was ended from outside.*fewer than 2 --workers$"):
        list(spread(os._exit, [1, 1], 2, "here"))


def test_workers_end_with_their_parent_even_where_it_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", SLEEPERS])
    try:
        workers = _wait_for(lambda: _asleep(parent.pid), "two workers at their tasks")
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _wait_for(lambda: not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers), "the workers' end")


def _asleep(pid):
    """Return the children that run tasks, if both do: each has started the thread that follows its parent."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    workers = [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    ready = [worker for worker in workers if len(list(Path(f"/proc/{worker}/task").iterdir())) > 1]
    return ready if len(ready) == 2 else []


def _wait_for(condition, what):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited for {what}")
