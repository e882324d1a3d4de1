"""Being asked to stop: Ctrl-C, SIGTERM and SIGUSR1 become a request that the training loop honours between steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
EXIT_REQUEUE = 75
"""EX_TEMPFAIL: stopped by SIGTERM or SIGUSR1 with everything saved; run again with --resume auto."""
EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C with everything saved."""


class Stopped(Exception):
    """Training stopped because a signal asked for it; everything is saved."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """What the process should exit with."""
        return EXIT_INTERRUPTED if self.signal_number == signal.SIGINT else EXIT_REQUEUE


class StopRequest:
    """Which signal, if any, has asked for a stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


early = StopRequest()
"""What came before there was a run to stop; its first look at its own request finds it."""


def note_signals_from_here() -> None:
    """Note SIGTERM and SIGUSR1 from now on, so that a job that is asked to stop while it still starts is not lost: the run stops at once.

    Ctrl-C ends a process that only starts, as ever.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        early.signal_number = early.signal_number or number

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, handle)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a request that signals set. Repeated signals are one request, but a second Ctrl-C interrupts at once.

    A SIGTERM or SIGUSR1 that was not honoured, since the run had come to its end, is raised again afterwards. In any thread but the
    main one, signals keep their handlers and the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_number = request.signal_number or number

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    request.signal_number, early.signal_number = request.signal_number or early.signal_number, None
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    # Only where nothing was raised: what came too late for this run is the caller's.
    if request.signal_number in (signal.SIGTERM, signal.SIGUSR1):
        signal.raise_signal(request.signal_number)
