"""The commands rlhf and watch."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.table import Table

from ..io.files import read_json, to_json
from ..io.run_folder import CONFIG, HISTORY, RESULT, check_new_folder
from ..tasks.catalogue import blaming
from .running import INTERRUPTED, interrupted, need, refuse_beside_resume

_TEACHER, _SETUP, _RUN = "Teacher", "Setup (the environment's preset by default)", "Run and output"
FAULTY = 1

ENVIRONMENTS = {
    "moving-dot": "A dot is to stay in the left half: learned within a minute.",
    "catcher": "A paddle is to catch a falling ball.",
    "minatar-breakout": "MinAtar's Breakout, in JAX; needs bilevax\\[minatar].",
    "minatar-asterix": "MinAtar's Asterix.",
    "minatar-freeway": "MinAtar's Freeway.",
    "minatar-space-invaders": "MinAtar's Space Invaders.",
    "atari-NAME": "An Atari game, as atari-pong; needs bilevax\\[atari].",
    "gym:ID": "An environment of Gymnasium with finitely many actions, as gym:Taxi-v4.",
    "FILE.py:FUNCTION": "An environment of your own: what the function returns.",
}


def _option(help: str, panel: str, *flags: str, **limits):
    return typer.Option(*flags, help=help, rich_help_panel=panel, **limits)


def rlhf(
    env: Annotated[
        str | None,
        typer.Argument(help="A name from [bold]bilevax list[/bold], or FILE.py:FUNCTION."),
    ] = None,
    algorithm: Annotated[str, typer.Option(help="pbrl, drlhf or true-reward.")] = "pbrl",
    labels: Annotated[int | None, _option("Pairs labelled in all.", _SETUP, min=0)] = None,
    steps: Annotated[int | None, _option("Environment steps of all rounds.", _SETUP, min=1)] = None,
    rounds: Annotated[
        int | None, _option("How often the reward model is renewed.", _SETUP, min=1)
    ] = None,
    segment: Annotated[int | None, _option("Steps of a segment.", _SETUP, min=1)] = None,
    envs: Annotated[int | None, _option("Environments stepped at once.", _SETUP, min=1)] = None,
    penalty_weight: Annotated[float | None, _option("The penalty weight of pbrl.", _SETUP)] = None,
    teacher: Annotated[
        str, _option("oracle, noisy, mistake, skip, equal or myopic.", _TEACHER)
    ] = "oracle",
    beta: Annotated[float | None, _option("Rationality of noisy (1).", _TEACHER)] = None,
    mistake: Annotated[
        float | None, _option("Share of wrong answers of mistake (.1).", _TEACHER)
    ] = None,
    skip: Annotated[
        float | None, _option("Return below which skip gives no answer.", _TEACHER)
    ] = None,
    equal: Annotated[
        float | None, _option("Difference of returns that equal cannot tell.", _TEACHER)
    ] = None,
    myopia: Annotated[
        float | None, _option("Discount of myopic towards the past (.9).", _TEACHER)
    ] = None,
    seeds: Annotated[int, _option("How many seeds, side by side.", _RUN, min=1)] = 1,
    seed: Annotated[int, _option("The first of them.", _RUN, min=0)] = 0,
    out: Annotated[Path | None, _option("A new folder for the run.", _RUN)] = None,
    dataset: Annotated[
        Path | None,
        _option("Labelled pairs: used from the start if the folder has some, else saved.", _RUN),
    ] = None,
    resume: Annotated[
        Path | None, _option("Continue the unfinished run in this folder.", _RUN)
    ] = None,
    tensorboard: Annotated[bool, _option("Write event files too.", _RUN)] = False,
    json: Annotated[bool, _option("Print one line of JSON.", _RUN)] = False,
    quiet: Annotated[bool, _option("No progress.", _RUN)] = False,
    workers: Annotated[int | None, _option("Threads.", _RUN, min=1)] = None,
) -> int:
    """Learn a reward from preferences, and the policy that it asks for, together."""
    given = locals()
    from .rlhf_settings import read_rlhf_settings, settings_with_paths

    fields = {name: value for name, value in given.items() if name not in _OF_THE_PROCESS}
    if resume is not None:
        refuse_beside_resume(rlhf, fields | dict(out=out))
        settings = read_rlhf_settings(resume)
        return _learn(settings, resume, True, json, quiet, workers)
    if env is None:
        raise ValueError("name an ENV (bilevax list shows them), or give --resume DIR.")
    if tensorboard and out is None:
        raise ValueError("--tensorboard writes into the folder of the run: give --out DIR.")
    settings = settings_with_paths(fields | dict(reuse=False))
    return _learn(settings, out, False, json, quiet, workers)


_OF_THE_PROCESS = ("out", "resume", "json", "quiet", "workers")
"""The options that no number of a run depends on."""


def _learn(settings, out, resume, json, quiet, workers) -> int:
    from ..deep.rlhf.folder import check_unfinished_rlhf
    from ..deep.rlhf.outcome import to_fields
    from ..deep.rlhf.run import run_rlhf
    from .rlhf_settings import SCORED, check_new_dataset, prepare_rlhf
    from .rlhf_terminal import LearningDisplay, print_rlhf

    if out is not None:
        check_unfinished_rlhf(out, settings.all_seeds) if resume else check_new_folder(out)
        need("matplotlib", "PIL", "safetensors")
    if settings.dataset is not None and not settings.reuse:
        check_new_dataset(Path(settings.dataset), resume)
    if settings.tensorboard:
        need("tensorboardX")
    # Float32 throughout: learning is noisy, and twice as fast in it.
    with jax.enable_x64(False), blaming(settings.env):
        task = prepare_rlhf(settings)
        try:
            with LearningDisplay(settings.algorithm, quiet=quiet) as display:
                run = run_rlhf(
                    task.algorithm,
                    settings.all_seeds,
                    teacher=task.teacher,
                    known=task.known,
                    directory=out,
                    resume=resume,
                    config=None if out is None or resume else task.config(),
                    tensorboard=settings.tensorboard,
                    episodes=task.episodes,
                    workers=workers,
                    on_progress=display,
                )
            if settings.dataset is not None and not settings.reuse:
                _save_dataset_at_once(settings, task, run)
            if out is not None:
                from ..deep.rlhf.report import write_rlhf_report

                write_clips(out, settings)
                write_rlhf_report(out)
        except KeyboardInterrupt:
            return _interrupted(out)
    fields = to_fields(run)
    each = fields.pop("seeds")
    record = dict(
        env=settings.env,
        algorithm=settings.algorithm,
        scored=SCORED[settings.algorithm],
        teacher=settings.teacher if task.algorithm.asks else None,
        **fields,
        seeds=settings.seeds,
        each_seed=each,
    )
    record |= {} if out is None else {"out": str(out)}
    print(to_json(record)) if json else print_rlhf(record)
    return FAULTY if run.faults else 0


def _interrupted(out: Path | None) -> int:
    """Says how a run that Ctrl-C ended is continued, or shown if it was finished; the exit code."""
    finished = out is not None and (out / RESULT).exists()
    if not finished and (out is None or (out / HISTORY).exists()):
        return interrupted("rlhf", out)
    report = (
        f"after the end of the run; write its report with: bilevax report {shlex.quote(str(out))}"
    )
    words = report if finished else "before anything was written"
    print(f"bilevax: interrupted {words}", file=sys.stderr)
    return INTERRUPTED


def write_clips(folder: Path, settings) -> None:
    """A clip of every seed's policy, for the report."""
    from ..deep.rlhf.clip import CLIP, write_clip
    from .rlhf_settings import find_preset

    sampler = find_preset(settings.env).sampler(1)
    for seed in settings.all_seeds:
        write_clip(folder, sampler, seed, folder / CLIP.format(seed=seed, format="webp"))


def watch(
    directory: Annotated[Path, typer.Argument(help="The folder of a run of bilevax rlhf.")],
    seed: Annotated[int | None, typer.Option(help="Whose policy; the first by default.")] = None,
    steps: Annotated[int, typer.Option(help="Steps to show.", min=1)] = 200,
    format: Annotated[str, typer.Option(help="gif or webp.")] = "gif",
    out: Annotated[Path | None, typer.Option(help="The file; in the folder by default.")] = None,
) -> int:
    """Write a clip of a learned policy."""
    from ..deep.rlhf.clip import CLIP, write_clip
    from .rlhf_settings import find_preset, read_rlhf_settings

    if format not in ("gif", "webp"):
        raise ValueError(f"--format is {format!r}; give gif or webp.")
    need("PIL", "safetensors")
    settings = read_rlhf_settings(directory)
    seed = settings.seed if seed is None else seed
    path = out or directory / CLIP.format(seed=seed, format=format)
    with jax.enable_x64(False), blaming(settings.env):
        setup_sampler = find_preset(settings.env).sampler(1)
        print(write_clip(directory, setup_sampler, seed, path, steps=steps))
    return 0


def list_rlhf(table: Table) -> None:
    """Adds the environments and algorithms of ``bilevax rlhf`` to a list."""
    from .rlhf_settings import ALGORITHMS

    table.add_row("")
    table.add_row("[underline]Environments of bilevax rlhf")
    for name, words in ENVIRONMENTS.items():
        table.add_row(name, words)
    table.add_row("")
    table.add_row("[underline]Algorithms of bilevax rlhf")
    for name, words in ALGORITHMS.items():
        table.add_row(name, words[0].upper() + words[1:] + ".")


def is_rlhf(directory: Path) -> bool:
    """Whether the folder is that of a run of ``bilevax rlhf``, or of ``run_rlhf``."""
    path = directory / CONFIG
    if path.exists():
        return (read_json(path) or {}).get("kind") == "rlhf"
    return any(directory.glob("policy-seed*")) or any(directory.glob("seed*.checkpoint"))


def write_rlhf_page(directory: Path) -> Path:
    """Writes report.html again, with a clip of every policy that is there."""
    from ..deep.rlhf.report import write_rlhf_report
    from .rlhf_settings import read_rlhf_settings

    settings = read_rlhf_settings(directory)
    if (directory / RESULT).exists():
        with jax.enable_x64(False), blaming(settings.env):
            write_clips(directory, settings)
    return write_rlhf_report(directory)


def _save_dataset_at_once(settings, task, run) -> None:
    """Saves the labelled pairs; one Ctrl-C does not lose them."""
    try:
        _save_dataset(settings, task, run)
    except KeyboardInterrupt:
        _save_dataset(settings, task, run)
        raise


def _save_dataset(settings, task, run) -> None:
    from ..deep.dataset import save_dataset
    from ..deep.rlhf.outcome import labelled_pairs

    spec = task.algorithm.setup.sampler.spec
    save_dataset(
        settings.dataset,
        labelled_pairs(run),
        environment=spec.name,
        num_actions=spec.num_actions,
        teacher=settings.teacher,
    )
