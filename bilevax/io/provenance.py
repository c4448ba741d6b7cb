"""Where a run comes from: the command line and the versions, for its ``config.json``."""

import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from typing import Any

_PACKAGES = ("bilevax", "jax", "jaxlib", "equinox", "optax", "numpy")

_command: ContextVar[list[str] | None] = ContextVar("command", default=None)


@contextmanager
def commanded(arguments: Sequence[str]) -> Iterator[None]:
    """While this lasts, runs come from the command line ``bilevax ARGUMENTS``."""
    token = _command.set(["bilevax", *arguments])
    try:
        yield
    finally:
        _command.reset(token)


def provenance() -> dict[str, Any]:
    """``command``, by which the run was asked for, and ``versions``.

    Without a command line of ours the command is that of the Python program that made the run.
    """
    return dict(
        command=_command.get() or ["python", *sys.argv],
        versions={"python": platform.python_version()}
        | {name: metadata.version(name) for name in _PACKAGES},
    )
