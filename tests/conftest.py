"""What every test runs under: float64, checked shapes and types, the same examples every time."""

import gc
import os
import platform
import signal
from pathlib import Path

# Most of the suite's time is compilation, of programs that run once on tiny arrays: little
# optimisation, the older emitters of fused loops and narrow vectors compile fastest. JAX reads this
# when it is imported; XLA_FLAGS set from outside come first.
quick = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
narrow = " --xla_cpu_max_isa=SSE4_2" if platform.machine() == "x86_64" else ""
os.environ.setdefault("XLA_FLAGS", quick + narrow)

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_enable_x64", True)

# BILEVAX_TYPECHECK=0 runs the tests without the checks of shapes and types, which is faster.
if os.environ.get("BILEVAX_TYPECHECK", "1") != "0":
    from jaxtyping import install_import_hook

    install_import_hook("bilevax", "beartype.beartype")

# A shell's background jobs ignore Ctrl-C, and so would the runs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the first call of a compiled function takes as long as its compilation.
settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")


MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forgets compiled programs before there are too many.

    Each takes several memory maps, of which Linux allows a process 65,530; the compiler crashes
    where it gets no more.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 45_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def cli(capsys):
    """Runs a command line; gives its exit code, stdout and stderr."""
    # Imported here: the hook above has to see it first.
    from bilevax.cli.entry import execute

    def call(*arguments):
        code = execute([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call
