"""How long a round waits for the answers of a labeller."""

import threading
import time

from ..labeller import AbstractLabeller

_LOOK = 0.5
"""Seconds between two looks at whether the answers have come."""


def check_patience(patience: float, labeller: AbstractLabeller | None) -> None:
    """``ValueError`` where there is nothing to wait for."""
    if not patience >= 0:
        raise ValueError(f"run_rlhf: patience is {patience}; give at least 0 seconds.")
    if not patience:
        return
    if labeller is None:
        raise ValueError(
            f"run_rlhf: patience is {patience}, and there is no labeller to wait for; leave it out."
        )
    if type(labeller).unanswered is AbstractLabeller.unanswered:
        raise ValueError(
            f"run_rlhf: patience is {patience}, and {type(labeller).__name__} does not say what it "
            "waits for; define its unanswered(), the number of questions without an answer."
        )


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
