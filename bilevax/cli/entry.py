"""The entry point: the arguments, one line per error, and the exit code."""

import contextlib
import importlib.util
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

BAD_INPUT, INTERRUPTED = 2, 130

_EXTRA = {
    "typer": "cli",
    "rich": "cli",
    "matplotlib": "cli",
    "gymnasium": "gymnasium",
    "gymnax": "minatar",
    "six": "minatar",
    "ale_py": "atari",
    "safetensors": "deep",
    "PIL": "deep",
    "tensorboardX": "tensorboard",
    "pandas": "bench",
    "pyarrow": "bench",
}


def main() -> int:
    """Runs the command line of this process; see ``execute``."""
    _keep_compiled_programs()
    code = execute(sys.argv[1:])
    if code == INTERRUPTED:
        # Ctrl-C amid a compilation can leave the compiler in a state that crashes the interpreter's
        # orderly end. Everything is on the disk by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def execute(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code.

    0 where all is well, 1 where the outcome is infeasible, no decision process or not finite, 2 on
    bad input (one line on stderr says what), 130 after Ctrl-C.
    """
    try:
        from ..io.provenance import commanded
        from .app import app

        with _terminated_like_interrupted(), commanded(arguments):
            code = app(
                args=list(arguments),
                prog_name="bilevax",
                standalone_mode=False,
            )
        return code if isinstance(code, int) else 0
    except ModuleNotFoundError as error:
        if "bilevax[" in str(error):  # it says itself what to install
            return _fail(error)
        name = (error.name or "").partition(".")[0]
        if name not in _EXTRA:
            raise
        return _fail(f'{name} is not installed: pip install "bilevax[{_EXTRA[name]}]"')
    except BrokenPipeError:
        # The reader of a pipe has gone; nothing is left to say, and Python must not say so either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as error:
        return _fail(error)
    except OSError as error:
        if error.filename is None or error.strerror is None:
            return _fail(error)
        return _fail(f"{error.filename}: {error.strerror.lower()}; check it, or name another path.")
    except Exception as error:
        usage = getattr(error, "format_message", None)  # typer's errors, of whatever version
        if usage is None:
            if type(error).__name__ == "Abort":  # what typer makes of Ctrl-C
                print("bilevax: interrupted", file=sys.stderr)
                return INTERRUPTED
            raise
        if not usage():  # the help was asked for by giving no arguments, and has been printed
            return BAD_INPUT
        return _fail(usage() + _value_found(error))


def _value_found(error: Exception) -> str:
    """What typer's checks of numbers, by pydantic, leave out of their words."""
    details = getattr(error.__cause__, "errors", None)
    return "" if details is None else f"; found {details()[0]['input']!r}."


def _keep_compiled_programs() -> None:
    """Compiled once, a program serves later runs: JAX's cache, in the user's cache folder.

    Left alone where the user has set ``JAX_COMPILATION_CACHE_DIR`` (empty: no cache).
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # By host, for a program fits the processor that it was compiled for.
    folder = base / "bilevax" / platform.node()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that may not be written to: every run then compiles
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if importlib.util.find_spec("filelock") is not None:  # what JAX needs to keep a limit
        jax.config.update("jax_compilation_cache_max_size", 2**26)
        _forget_halves(folder)


def _forget_halves(folder: Path) -> None:
    """Removes programs whose writing was cut short by a kill.

    JAX writes a program, then the time of its use, and never forgets one without a time: from then
    on it could keep nothing new, and would say so at every compilation.
    """
    from filelock import FileLock, Timeout

    # JAX's own lock: another process may be between the two writes just now.
    with contextlib.suppress(OSError, Timeout), FileLock(folder / ".lockfile", timeout=1):
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                program.unlink()


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """A termination, by a scheduler say, acts like Ctrl-C: the run is saved first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _fail(message: object) -> int:
    print(f"bilevax: error: {' '.join(str(message).split())}", file=sys.stderr)
    return BAD_INPUT
