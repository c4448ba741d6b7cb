"""Settings of ``bilevax rlhf`` that fit into a JSON file, and what they stand for."""

import platform
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from .._nearest import nearest
from ..deep.buffer import Pairs
from ..deep.dataset import MANIFEST, load_dataset
from ..deep.environment import AbstractEnvironment
from ..deep.presets import PRESETS, Preset, own_preset, preset
from ..deep.rlhf.base import AbstractAlgorithm
from ..deep.rlhf.setup import Setup
from ..deep.sampler import AbstractSampler, CompiledSampler
from ..deep.teacher import ScriptedTeacher
from ..io.files import read_json
from ..io.provenance import provenance
from ..io.run_folder import CONFIG, HISTORY, check_new_folder
from ..tasks.catalogue import absolute, blaming, first_sentence, function_in, is_file

ALGORITHMS = {
    "pbrl": "both levels together, with a policy that tracks the best response (the default)",
    "drlhf": "the reward model and the policy in turn (Christiano et al. 2017)",
    "true-reward": "the same policy on the true reward: what preferences could reach at most",
}
SCORED = {
    "pbrl": "pi_y, the policy that segments are drawn from; the tracker's steps count too",
    "drlhf": "the policy",
    "true-reward": "the policy",
}
TEACHERS = {
    "oracle": "",
    "noisy": "beta",
    "mistake": "mistake",
    "skip": "skip",
    "equal": "equal",
    "myopic": "myopia",
}
"""Each teacher, and the option that belongs to it."""


@dataclass(frozen=True)
class RLHFSettings:
    """The arguments of ``bilevax rlhf``; ``None`` stands for the environment's preset.

    Attributes:
        env: a name, or FILE.py:FUNCTION.
        algorithm: a key of ``ALGORITHMS``.
        teacher: a key of ``TEACHERS``.
        beta, mistake, skip, equal, myopia: of the teacher.
        labels, steps, rounds, segment, envs: of the setup.
        penalty_weight: of PBRL.
        seeds, seed: how many seeds, and the first.
        dataset: a folder of labelled pairs, to start from, or to be written.
        reuse: whether the data set was there, and its pairs are known from the start.
        tensorboard: whether event files are written.
    """

    env: str
    algorithm: str
    teacher: str
    beta: float | None
    mistake: float | None
    skip: float | None
    equal: float | None
    myopia: float | None
    labels: int | None
    steps: int | None
    rounds: int | None
    segment: int | None
    envs: int | None
    penalty_weight: float | None
    seeds: int
    seed: int
    dataset: str | None
    reuse: bool
    tensorboard: bool

    @property
    def all_seeds(self) -> list[int]:
        """The seeds."""
        return list(range(self.seed, self.seed + self.seeds))


@dataclass(frozen=True)
class RLHFTask:
    """Settings made into objects."""

    settings: RLHFSettings
    algorithm: AbstractAlgorithm
    teacher: ScriptedTeacher
    known: Pairs | None
    episodes: int

    def config(self) -> dict[str, Any]:
        """Everything to repeat the run, for ``config.json``."""
        return provenance() | dict(
            kind="rlhf",
            about=_about(self.algorithm.setup.sampler),
            settings=asdict(self.settings),
            setup={
                name: value
                for name, value in vars(self.algorithm.setup).items()
                if isinstance(value, int | float)
            },
            machine=f"{platform.platform()}, {jax.devices()[0].device_kind}",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def prepare_rlhf(settings: RLHFSettings) -> RLHFTask:
    """The algorithm, the teacher and known pairs; ``ValueError`` where a setting makes no sense."""
    nearest("algorithm", settings.algorithm, ALGORITHMS)
    nearest("teacher", settings.teacher, TEACHERS)
    if settings.seeds < 1:
        raise ValueError(f"--seeds is {settings.seeds}; give at least 1.")
    teacher = _teacher(settings)
    found = find_preset(settings.env)
    if settings.dataset is not None and settings.algorithm == "true-reward":
        raise ValueError("--dataset: true-reward neither asks nor uses labelled pairs.")
    setup = _setup(settings, found)
    known = _known(settings, setup) if settings.reuse else None
    algorithm = _algorithm(settings, found, _roomy(setup, known))
    return RLHFTask(settings, algorithm, teacher, known, found.episodes)


def find_preset(name: str) -> Preset:
    """The preset of an environment by name, FILE.py:FUNCTION included."""
    if is_file(name):
        return _own(name)
    if name not in PRESETS and not name.startswith(("atari-", "gym:")):
        try:
            nearest("environment", name, PRESETS)
        except ValueError as error:
            raise ValueError(
                f"{error} Others are atari-NAME, gym:ID, and FILE.py:FUNCTION for one of your own."
            ) from None
    return preset(name)


def read_rlhf_settings(folder: Path) -> RLHFSettings:
    """The settings of the run in a folder."""
    path = folder / CONFIG
    if not path.exists() and (folder / HISTORY).exists():
        raise ValueError(
            f"the run in {folder} was made from Python: report, watch and --resume need one of "
            f"bilevax rlhf, which notes its settings in {CONFIG}."
        )
    if not path.exists():
        raise ValueError(f"{folder} holds no run: it has no {CONFIG}.")
    try:
        content = read_json(path)
        assert content["kind"] == "rlhf"
        return RLHFSettings(**content["settings"])
    except (KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{path} was not written by bilevax rlhf.") from error


def _setup(settings: RLHFSettings, found: Preset) -> Setup:
    def made(labels):
        return found.setup(
            steps=settings.steps,
            labels=labels,
            rounds=settings.rounds,
            segment=settings.segment,
            envs=settings.envs,
        )

    try:
        setup = made(settings.labels)
    except ValueError:
        # An environment that cannot serve at all is to be said first.
        _check_environment(settings.env, found.sampler(1))
        if settings.algorithm != "true-reward":
            raise
        setup = made(0)  # nobody is asked: labels that do not fit are in no one's way
    _check_environment(settings.env, setup.sampler)
    return setup


def _check_environment(name: str, sampler: AbstractSampler) -> None:
    """``ValueError`` where there is no such environment; those on the host are made here."""
    try:
        assert sampler.spec is not None
    except Exception as error:
        # Gymnasium's errors about an environment's name are for its user, but no ValueErrors.
        if not type(error).__module__.startswith("gymnasium"):
            raise
        from gymnasium.error import UnregisteredEnv

        unknown = isinstance(error, UnregisteredEnv)
        hint = "; give an ID that gymnasium.pprint_registry() lists." if unknown else "."
        raise ValueError(f"{name}: {str(error).rstrip('.')}{hint}") from error


def _algorithm(settings: RLHFSettings, found: Preset, setup: Setup) -> AbstractAlgorithm:
    weight = settings.penalty_weight
    if weight is not None and settings.algorithm != "pbrl":
        raise ValueError(f"--penalty-weight belongs to pbrl; {settings.algorithm} has no penalty.")
    if weight is not None and not weight > 0:
        raise ValueError(f"--penalty-weight is {weight}; give a positive number.")
    own = {} if weight is None else dict(penalty_weight=weight)
    return found.algorithm(settings.algorithm, setup, **own)


def _own(name: str) -> Preset:
    function = function_in(name)
    with blaming(name):
        made = function()
    if isinstance(made, Preset):
        return made
    if not isinstance(made, AbstractEnvironment):
        raise ValueError(
            f"{name} returned a {type(made).__name__}; return an environment "
            "(bilevax.deep.environment.AbstractEnvironment), or a bilevax.deep.presets.Preset."
        )
    return own_preset(made)


def _teacher(settings: RLHFSettings) -> ScriptedTeacher:
    own = TEACHERS[settings.teacher]
    for name in filter(None, TEACHERS.values()):
        if name != own and getattr(settings, name) is not None:
            teacher = next(key for key, value in TEACHERS.items() if value == name)
            raise ValueError(f"--{name} belongs to --teacher {teacher}.")
    value = getattr(settings, own) if own else None
    if own in ("skip", "equal") and value is None:
        raise ValueError(f"--teacher {settings.teacher} needs --{own}, in units of return.")
    if settings.algorithm == "true-reward" and settings.teacher != "oracle":
        raise ValueError("--teacher: true-reward asks no teacher; leave it out.")
    makers = {
        "noisy": ScriptedTeacher.noisy,
        "mistake": ScriptedTeacher.mistaken,
        "skip": ScriptedTeacher.skipping,
        "equal": ScriptedTeacher.equating,
        "myopic": ScriptedTeacher.myopic,
    }
    if not own:
        return ScriptedTeacher.oracle()
    return makers[settings.teacher]() if value is None else makers[settings.teacher](value)


def _about(sampler: AbstractSampler) -> str:
    """The first sentences on the environment, where it says something about itself."""
    return first_sentence(type(sampler.env)) if isinstance(sampler, CompiledSampler) else ""


def _known(settings: RLHFSettings, setup: Setup) -> Pairs:
    assert settings.dataset is not None
    pairs, manifest = load_dataset(settings.dataset)
    spec = setup.sampler.spec
    manifest.require(
        environment=spec.name,
        num_actions=spec.num_actions,
        observation_shape=spec.observation_shape,
    )
    return pairs


def _roomy(setup: Setup, known: Pairs | None) -> Setup:
    """The setup with room for these pairs and for its own labels."""
    count = 0 if known is None else known.answers.second.shape[0]
    wanted = count + setup.labels if count else 0
    return setup if wanted <= setup.capacity else replace(setup, capacity=wanted)


def check_new_dataset(folder: Path, resume: bool) -> None:
    """``ValueError`` unless a run's pairs can be saved there; creates nothing."""
    if resume and (folder / MANIFEST).exists():
        raise ValueError(
            f"--dataset: {folder} was filled by another run since this one began; move its files "
            "away, and resume then."
        )
    if resume and folder.is_dir():  # the run itself may be in it
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"--dataset: {folder} is neither empty nor a data set to start from, which has a "
            f"{MANIFEST}; name a new folder, so that nothing in it is lost."
        )
    check_new_folder(folder)


def settings_with_paths(settings: dict[str, Any]) -> RLHFSettings:
    """Settings whose paths serve from any folder."""
    dataset = settings["dataset"]
    if dataset is not None:
        settings["dataset"] = str(Path(dataset).resolve())
        settings["reuse"] = (Path(dataset) / MANIFEST).exists()
    settings["env"] = absolute(settings["env"])
    return RLHFSettings(**settings)
