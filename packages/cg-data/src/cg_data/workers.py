"""Worker processes: tasks spread over them, which end with their parent, even where that is killed."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cg_data.command_line import set_up_logging
from cg_data.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, where: str) -> Iterator[tuple[int, Result]]:
    """Yield (number of the task, result) as they come from `workers` spawned processes; with one worker from this process, in order.

    Function and tasks are pickled on the way to a worker. An exception of a task is raised here, after the tasks that have begun.
    Raises `UserError` naming `where` if a worker is ended from outside.
    """
    if workers == 1 or len(tasks) < 2:
        for number, task in enumerate(tasks):
            yield number, function(task)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker) as pool:
        numbers = {pool.submit(function, task): number for number, task in enumerate(tasks)}
        try:
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                f"{where}: a worker process was ended from outside, perhaps for want of memory; the same command continues: "
                f"give it fewer than {workers} --workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    set_up_logging()
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
