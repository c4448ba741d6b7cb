"""Where a run comes from: the command line and the versions, for its ``config.json``."""

import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("bilevax", "jax", "jaxlib", "equinox", "optax", "numpy")

_command: ContextVar[list[str] | None] = ContextVar("command", default=None)


@contextmanager
def commanded(arguments: Sequence[str]) -> Iterator[None]:
    """Within this context ``provenance`` gives the command ``bilevax ARGUMENTS``."""
    token = _command.set(["bilevax", *arguments])
    try:
        yield
    finally:
        _command.reset(token)


def provenance() -> dict[str, Any]:
    """The ``command`` that asked for the run and the ``versions`` it ran with.

    Without a command line of ours the command is that of the Python file that made the run, and
    empty where there is none: in a notebook or a prompt.
    """
    return dict(
        command=_command.get() or _python_command(),
        versions={"python": platform.python_version()} | installed(*_PACKAGES),
    )


def installed(*packages: str) -> dict[str, str]:
    """The version of each package that runs."""
    from .. import __version__  # not yet there while the package is being imported

    # A source tree need not be installed, and another version may be.
    return {name: __version__ if name == "bilevax" else metadata.version(name) for name in packages}


def _python_command() -> list[str]:
    program, *arguments = sys.argv or [""]  # embedded, Python may have none
    ours = program.endswith(".py") and "ipykernel" not in program
    # The file by its name alone: where it lies is this machine's matter.
    return ["python", Path(program).name, *arguments] if ours else []
