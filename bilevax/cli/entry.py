"""The entry point: the arguments, one line per error, and the exit code."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

BAD_INPUT, INTERRUPTED = 2, 130

_EXTRA = {"typer", "rich", "matplotlib", "gymnasium"}


def main() -> int:
    """Runs the command line of this process; see ``execute``."""
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

    0 where all is well, 1 where the outcome is infeasible or not finite, 2 on bad input (one line
    on stderr says what), 130 after Ctrl-C.
    """
    try:
        from .app import app

        with _terminated_like_interrupted():
            code = app(
                args=list(arguments),
                prog_name="bilevax",
                standalone_mode=False,
            )
        return code if isinstance(code, int) else 0
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _EXTRA:
            raise
        extra = "gymnasium" if name == "gymnasium" else "cli"
        return _fail(f'{name} is not installed: pip install "bilevax[{extra}]"')
    except BrokenPipeError:
        # The reader of a pipe has gone; nothing is left to say, and Python must not say so either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        return _fail(error)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # typer's errors, of whatever version
        if usage is None:
            if type(error).__name__ == "Abort":  # what typer makes of Ctrl-C
                print("bilevax: interrupted", file=sys.stderr)
                return INTERRUPTED
            raise
        return _fail(usage())


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
