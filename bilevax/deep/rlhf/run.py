"""A whole run: several seeds side by side, with progress, history, checkpoints and Ctrl-C.

A seed's numbers depend on the seed alone: not on the other seeds, on threads, or on whether the run
was stopped and resumed.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..._driver import default_workers
from ...io.run_folder import check_new_folder, held
from ..buffer import Pairs
from ..labeller import AbstractLabeller
from ..sampler import HostSampler
from ..teacher import AbstractTeacher, ScriptedTeacher
from .base import AbstractAlgorithm
from .folder import check_config, check_unfinished_rlhf, need_safetensors
from .outcome import RLHFProgress, RLHFRun
from .patience import check_patience
from .session import Session, check_known


def run_rlhf(
    algorithm: AbstractAlgorithm,
    seeds: int | Sequence[int],
    *,
    teacher: AbstractTeacher | None = None,
    labeller: AbstractLabeller | None = None,
    patience: float = 0.0,
    known: Pairs | None = None,
    directory: str | os.PathLike | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    checkpoint_every: float = 30.0,
    tensorboard: bool = False,
    episodes: int = 64,
    workers: int | None = None,
    on_progress: Callable[[RLHFProgress], None] | None = None,
) -> RLHFRun:
    """A policy, and the reward it was taught, for each seed.

    Arguments:
        algorithm: ``PBRL``, ``DRLHF`` or ``TrueReward``, with its setup.
        seeds: the seeds themselves, or their number K for 0 to K - 1.
        teacher: answers from the true rewards, the oracle by default.
        labeller: answers in the teacher's place, now or later; for a run of one seed.
        patience: seconds for which a round that asks waits until its labeller has no question open,
            those of earlier rounds and runs counted in; ``math.inf`` for as long as it takes.
        known: labelled pairs that every seed has from the start. They count as labels.
        directory: an empty or new folder for history, checkpoints and networks.
        resume: continue the unfinished run in ``directory``; everything else must be as it was.
        config: saved in the folder as ``config.json``; with ``resume`` the same, or none.
        checkpoint_every: seconds between two checkpoints of a seed; with a ``labeller`` there is
            one after every round.
        tensorboard: also write event files, into ``directory/tensorboard``.
        episodes: of the final evaluation, which counts in no step.
        workers: threads; as many as there are CPUs by default, one on an accelerator.
        on_progress: called from this thread several times a second.

    Everything is computed in float32, whatever ``jax_enable_x64`` says. Environments outside JAX
    cannot be saved: they start new episodes a few times in a run, and checkpoints are made there;
    their seeds run one after another.

    A seed whose reward model is no longer finite is stopped and keeps its last good state; the
    others go on. One that asked and had no answer by its end says so in its ``fault``. Ctrl-C lets
    the rounds under way end (one that waits for answers is not begun), saves them where there is a
    ``directory``, and raises ``KeyboardInterrupt``. ``ValueError`` says what is wrong with the
    arguments, the folder or a checkpoint before anything is written.
    """
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"run_rlhf: seeds is {seeds}; give at least one, each once.")
    if labeller is not None and len(numbers) > 1:
        raise ValueError(
            f"run_rlhf: one labeller cannot answer {len(numbers)} seeds; run them one by one."
        )
    if labeller is not None and teacher is not None:
        raise ValueError("run_rlhf: both a teacher and a labeller were given; leave one out.")
    check_patience(patience, labeller)
    for name, value in (("workers", workers), ("episodes", episodes)):
        if value is not None and value < 1:
            raise ValueError(f"run_rlhf: {name} is {value}; give at least 1.")
    if known is not None:
        check_known(algorithm, known)
    folder = None if directory is None else Path(directory)
    if folder is None and (resume or tensorboard):
        raise ValueError("run_rlhf: resume and tensorboard need the directory of the run.")
    if folder is not None:
        need_safetensors()
        check_unfinished_rlhf(folder, numbers) if resume else check_new_folder(folder)
        if resume and config is not None:
            check_config(folder, config)
    writer = _summary_writer() if tensorboard else None
    answers = labeller if labeller is not None else teacher or ScriptedTeacher.oracle()
    if isinstance(algorithm.setup.sampler, HostSampler):
        workers = 1
    session = Session(algorithm, numbers, answers, known, folder, resume, episodes, patience)
    with held(folder):
        if folder is not None and resume:  # another process may have ended it meanwhile
            check_unfinished_rlhf(folder, numbers)
        session.open(config, writer)
        session.work(workers or default_workers(), checkpoint_every, on_progress)
        return session.end()


def _summary_writer():
    """The class that writes event files."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "tensorboardX is needed: install it with pip install 'bilevax[tensorboard]'.",
            name=error.name,
        ) from None
    return SummaryWriter
