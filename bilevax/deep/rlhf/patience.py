"""How long a round waits for the answers of a labeller."""

import threading
import time

from ..labeller import AbstractLabeller

_LOOK = 0.5
"""Seconds between two looks at whether the answers have come."""


class Stopped(Exception):
    """The run is to end while a round waits for answers: that round is not begun."""


class Patience:
    """Waits until a labeller's questions are answered, or ``seconds`` are over.

    Attributes:
        seconds: for which one call waits at most; 0 waits for nothing and does not look.
        stop: set where the run is to end: the wait raises ``Stopped``.
        waiting_for: how many questions are unanswered, while somebody waits.
    """

    def __init__(self, seconds: float, stop: threading.Event):
        self.seconds, self.stop, self.waiting_for = seconds, stop, 0

    def __call__(self, labeller: AbstractLabeller) -> None:
        """Returns when the wait is over."""
        until = time.monotonic() + self.seconds
        try:
            while (left := until - time.monotonic()) > 0 and (missing := labeller.unanswered()):
                self.waiting_for = missing
                if self.stop.wait(min(_LOOK, left)):
                    raise Stopped
        finally:
            self.waiting_for = 0
