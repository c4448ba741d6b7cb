"""What runs a job: this process, another one, or an actor of Ray."""

import abc
import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..io.files import to_json

Function = Callable[[dict[str, Any]], dict[str, Any]]
"""``run_job`` or ``run_calibration``: what both ends know by name."""

_CACHE = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


class WorkerDied(Exception):
    """The process that runs a job is gone, or could not start; the message says how it ended."""


class AbstractWorker(abc.ABC):
    """Runs one job at a time."""

    @abc.abstractmethod
    def run(self, function: Function, job: dict[str, Any]) -> dict[str, Any]:
        """A job's answer by ``run_job`` or ``run_calibration``; ``WorkerDied`` without one."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the worker, amid a job too; from any thread, more than once."""


class LocalWorker(AbstractWorker):
    """This process itself: quick to begin, and gone with a job that kills it."""

    def run(self, function, job):
        """The answer, computed here."""
        # By way of JSON, as from any other worker: NaN becomes null.
        return json.loads(to_json(function(job)))

    def close(self):
        """Nothing."""


class ProcessWorker(AbstractWorker):
    """A process of its own on this machine."""

    def __init__(self):
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bilevax.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=worker_environment(),
                start_new_session=True,  # Ctrl-C is for the parent alone
                text=True,
                bufsize=1,
            )
        except OSError as error:
            raise WorkerDied(f"before it could start ({error})") from error
        self._is_closed = False
        if not self._read():
            ending = self._ending()
            self.close()
            raise WorkerDied(
                f"{ending} before its first job (python -m bilevax.bench.worker says why)"
            )

    def run(self, function, job):
        """The answer of the process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(to_json({"function": function.__name__, "job": job}) + "\n")
            line = self._read()
        except OSError:
            line = ""
        if not line:
            raise WorkerDied(self._ending())
        return json.loads(line)

    def close(self):
        """Kills the process."""
        if self._is_closed:
            return
        self._is_closed = True
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what had not been sent to it
                    pipe.close()

    def _read(self) -> str:
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except ValueError:  # closed by another thread
            return ""
        return line if line.endswith("\n") else ""

    def _ending(self) -> str:
        code = self._process.wait()
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


class RayWorker(AbstractWorker):
    """An actor of Ray, somewhere on its cluster."""

    def __init__(self):
        import ray
        from ray.exceptions import RayError

        actor: Any = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        environment = {name: worker_environment()[name] for name in ("PYTHONPATH", "XLA_FLAGS")}
        try:
            self._actor = actor.options(runtime_env={"env_vars": environment}).remote()
        except (RayError, OSError) as error:
            raise WorkerDied(_one_line(error)) from None

    def run(self, function, job):
        """The answer of the actor."""
        import ray
        from ray.exceptions import RayError

        try:
            return json.loads(ray.get(self._actor.run.remote(function, job)))
        except (RayError, OSError) as error:
            raise WorkerDied(_one_line(error)) from None

    def close(self):
        """Kills the actor."""
        import ray
        from ray.exceptions import RayError

        if ray.is_initialized():
            with contextlib.suppress(RayError):  # it may be gone already
                ray.kill(self._actor)


class _Actor:
    def run(self, function, job) -> str:
        return to_json(LocalWorker().run(function, job))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def start_ray(address: str, workers: int) -> None:
    """Connects to Ray, or starts it on this machine for the address "local"."""
    if importlib.util.find_spec("ray") is None:
        raise ModuleNotFoundError('ray is not installed: pip install "bilevax[ray]"', name="ray")
    _check_answers(address)
    import ray

    quiet: Any = dict(log_to_driver=False, logging_level="error", ignore_reinit_error=True)
    if address == "local":
        ray.init(num_cpus=workers, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"--ray {address}: no Ray answers there ({reason}).") from error


def _check_answers(address: str) -> None:
    # Ray itself would try for minutes.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        if address not in ("local", "auto"):
            raise ValueError(f"--ray is {address!r}; give HOST:PORT, auto or local.")
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"--ray {address}: no Ray answers there ({reason}).") from error


def worker_environment() -> dict[str, str]:
    """The environment of a worker: the same package, one thread, the same compilation cache."""
    import jax

    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    # A worker per core: more threads in each would only share its CPU time out.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    # All of the cache's settings: a cache with a limit warns of entries made without one.
    cache = {name.upper(): getattr(jax.config, name) for name in _CACHE}
    given = {name: str(value) for name, value in cache.items() if value is not None}
    path = os.pathsep.join(filter(None, paths))
    return {**os.environ, **given, "PYTHONPATH": path, "XLA_FLAGS": flags.strip()}
