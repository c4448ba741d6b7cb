"""Files that are either whole or absent, and JSON without NaN."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None

CAN_LOCK = fcntl is not None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` at once when the block ends well.

    A reader, or a crash at any moment, finds the old content or the new, never a part of it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def lock(descriptor: int, refusal: str) -> None:
    """What is open under a descriptor for this process alone, until that is closed.

    ``ValueError`` with the refusal where another process has it. Systems and file systems without
    such locks go without the check.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise ValueError(f"{refusal}: wait for it, or stop it.") from None
    except OSError:
        return


def write_text(path: Path, text: str) -> None:
    """Writes the whole text, or nothing."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, or nothing."""
    write_text(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON: numbers that JSON does not have (NaN, infinity) become ``null``."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def read_json(path: Path) -> Any:
    """The value in a JSON file; ``ValueError`` names a file that holds none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it holds no JSON"
        raise ValueError(f"{path} cannot be read: {reason}.") from error


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
