"""The page of a run of RL from human feedback, for readers new to the method."""

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...io import figures as svg
from ...io.files import read_json, write_text
from ...io.page import UNKNOWN, counted, duration, number, page, repeated, table, text
from ...io.run_folder import CONFIG, HISTORY, REPORT, RESULT
from .clip import CLIP
from .figures import curve_figure, scatter_figure
from .folder import SEGMENTS, read_rlhf_history
from .outcome import LEAST

_METHODS = {
    "pbrl": "Two levels decide together. The upper level learns a <b>reward model</b> from "
    "answers: of two short clips, which is better? The lower level learns a <b>policy</b> that "
    "earns as much of that reward as it can. The policy also decides what the next clips show, "
    "so neither is finished without the other: PBRL improves both at once, and keeps the policy "
    "close to the best answer to the reward model by a penalty.",
    "drlhf": "A <b>reward model</b> learns from answers: of two short clips, which is better? A "
    "<b>policy</b> then learns to earn that reward, and both start over with new clips, each "
    "blind to the other's next move.",
    "true-reward": "A policy learns on the environment's own reward. Nobody is asked: this is "
    "what learning from preferences can be compared with.",
}
_FILES = {
    CONFIG: "environment, algorithm, seeds and versions: everything to repeat the run",
    HISTORY: "the curves above, a line per round and seed",
    SEGMENTS: "predicted and true returns of segments, for numpy.load",
    RESULT: "the numbers of this page",
}


def write_rlhf_report(folder: Path) -> Path:
    """Writes ``report.html`` from what is in the folder of a run, finished or not."""
    config, history = read_json(folder / CONFIG), read_rlhf_history(folder)
    result = read_json(folder / RESULT) if (folder / RESULT).exists() else None
    try:
        settings = config["settings"]
        method, name = _METHODS[settings["algorithm"]], settings["env"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no run that bilevax rlhf wrote.") from error
    taught = "taught by preferences" if settings["algorithm"] != "true-reward" else "on true reward"
    about = config.get("about")
    body = [
        f"<h1>{text(Path(name).name)}, {taught}</h1>",
        f'<p class="lead">{text(about.replace("`", ""))}</p>' if about else "",
        f"<p>{method}</p>",
        _verdict(result, folder),
        _tiles(result, settings, history),
        _clips(folder, settings),
        "<h2>How learning went</h2>",
        _figures(folder, history),
        _seeds(result),
        "<h2>How to repeat it</h2>",
        _repeat(config, folder),
    ]
    write_text(folder / REPORT, page(f"bilevax: {name}", body))
    return folder / REPORT


def _verdict(result, folder) -> str:
    if result is None:
        return (
            '<p class="verdict warn"><b>The run is unfinished.</b><span>Continue it with: '
            f"bilevax rlhf --resume {text(shlex.quote(str(folder)))}</span></p>"
        )
    if not result["faults"]:
        return ""
    stopped = " ".join(f"{fault[0].upper()}{fault[1:]}." for fault in result["faults"])
    return (
        f'<p class="verdict bad"><b>Not every seed went well.</b><span>{text(stopped)}</span></p>'
    )


def _tiles(result, settings, history) -> str:
    asks = settings["algorithm"] != "true-reward"
    if result is None:
        seconds = max((line["seconds"] for line in history), default=np.nan)
        steps = sum({line["seed"]: line["steps"] for line in history}.values())
        tiles = [
            ("Steps so far", f"{steps:,}", "over all seeds"),
            ("Time so far", duration(seconds), "of computing"),
        ]
    else:
        low, high = (np.nan if z is None else z for z in result["interval"])
        several = len(result["seeds"]) > 1
        known = sum(one["true_return"] is not None for one in result["seeds"])
        kind = "95% interval" if known >= LEAST else "lowest to highest seed:"
        about = f"{kind} {number(low, 4)} to {number(high, 4)}" if several else "one seed"
        tiles = [("True return", number(_known(result["true_return"]), 4), about)]
        if asks:
            accuracy = _known(result["reward_accuracy"])
            shown = _percent(accuracy)
            tiles += [
                ("Labels", f"{result['labels']:,}", f"per seed, teacher: {settings['teacher']}"),
                ("Reward accuracy", shown, f"on {_unseen(result)} it never saw"),
            ]
        tiles += [
            ("Steps", f"{result['steps']:,}", "per seed, all policies together"),
            (
                "Time",
                duration(result["wall_seconds"]),
                f"{len(result['seeds'])} seeds" if several else "compiling included",
            ),
        ]
    parts = [
        f'<div class="tile"><small>{text(name)}</small><strong>{text(value)}</strong>'
        f"<small>{text(note)}</small></div>"
        for name, value, note in tiles
    ]
    words = (
        "<p>The <b>true return</b> is what the scored policy earns in a whole episode under the "
        "environment's own reward, which it was never shown. Of several seeds it is the median.</p>"
        if asks and result is not None
        else ""
    )
    return f'<div class="tiles many">{"".join(parts)}</div>{words}'


def _clips(folder, settings) -> str:
    parts = []
    for seed in range(settings["seed"], settings["seed"] + settings["seeds"]):
        path = folder / CLIP.format(seed=seed, format="webp")
        if path.exists():
            data = base64.b64encode(path.read_bytes()).decode()
            parts.append(
                f'<figure class="card"><img alt="The policy of seed {seed} at work" '
                f'style="image-rendering: pixelated; max-width: 100%" '
                f'src="data:image/webp;base64,{data}"><figcaption>Seed {seed}</figcaption>'
                "</figure>"
            )
    if not parts:
        return ""
    grid = "display: flex; flex-wrap: wrap; gap: 1rem"
    return f'<h2>What was learned</h2><div style="{grid}">{"".join(parts)}</div>'


def _figures(folder: Path, history: Sequence[dict[str, Any]]) -> str:
    if not history:
        return "<p>No round has ended yet.</p>"
    several = len({line["seed"] for line in history}) > 1
    how = (
        "The blue line is the median over seeds, the band reaches from the lowest to the highest, "
        "each grey line is a seed. "
        if several
        else ""
    )
    again = sum(line.get("started_again", False) for line in history)
    jumps = (
        f" It jumps up where policies started again from random networks, {counted(again, 'time')} "
        "in all: next to no answer spoke for what they did."
        if again
        else ""
    )
    unknown = lambda name: any(not np.isfinite(line[name]) for line in history)
    crossed = " Straight lines cross the rounds in which"
    across = f"{crossed} none ended." if unknown("true_return") else ""
    alike = f"{crossed} all true returns were the same." if unknown("correlation") else ""
    panels = [
        (
            curve_figure(history, "true_return", "true return of an episode"),
            f"<b>True return.</b> {how}Episodes that ended in each round, under the environment's "
            f"own reward.{across}",
        ),
        (
            curve_figure(
                history,
                "reward_accuracy",
                "answers predicted rightly",
                level=(0.5, "guessing"),
                percent=True,
            ),
            "<b>Reward accuracy.</b> The share of held-out answers, never trained on, that the "
            "reward model orders as the teacher did. Pairs called equal do not count. It may fall "
            "as the policy improves: good clips are harder to tell apart.",
        ),
        (
            _scatter(folder),
            "<b>Predicted against true.</b> Each point is a segment of the final policy. The more "
            "they rise from left to right, the better the reward model knows the true reward "
            "where the policy now is. Blue is the first seed, "
            "grey the others. Only the order matters: unit and zero are the model's own. "
            "A policy that always does well leaves little to see: its segments are all alike.",
        ),
        (
            curve_figure(history, "correlation", "correlation"),
            "<b>Correlation.</b> Of predicted with true returns of segments of the policy of the "
            f"time: 1 is perfect, 0 is no better than chance.{alike}",
        ),
        (
            curve_figure(history, "labels", "labels so far", lowest=0.0)
            if any(line["labels"] for line in history)
            else None,
            "<b>Labels.</b> How many pairs had been answered.",
        ),
        (
            curve_figure(history, "penalty", "penalty")
            if any(line["penalty"] > 0 for line in history)
            else None,
            "<b>Penalty.</b> How much more the tracker, which only chases the learned reward, "
            "would earn than the scored policy, times the penalty weight. 0: the policy already "
            "is the best answer.",
        ),
        (
            curve_figure(history, "entropy", "entropy of the policy"),
            "<b>Entropy.</b> How varied the policy's actions still are, in nats. Near 0 it has "
            f"made up its mind.{jumps}",
        ),
    ]
    parts = [
        f'<figure class="card">{svg.inline(svg.to_svg(figure))}'
        f"<figcaption>{caption}</figcaption></figure>"
        for figure, caption in panels
        if figure is not None
    ]
    return f'<div class="figures">{"".join(parts)}</div>'


def _scatter(folder):
    path = folder / SEGMENTS
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return scatter_figure(file["predicted"], file["true"])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged.") from error


def _seeds(result) -> str:
    if result is None:
        return ""
    rows = [
        [
            str(one["seed"]),
            f"{number(_known(one['true_return']), 4)} ± {number(_known(one['standard_error']), 2)}",
            f"{one['steps']:,}",
            f"{one['labels']:,}",
            _percent(_known(one["reward_accuracy"])),
        ]
        for one in result["seeds"]
    ]
    head = ["Seed", "True return", "Steps", "Labels", "Reward accuracy"]
    note = "<p>± is the standard error over the episodes of the final evaluation.</p>"
    return f"<h2>Every seed</h2>{note}{table(head, rows, 'nnnnn')}"


def _repeat(config: dict[str, Any], folder: Path) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in config.get("versions", {}).items())
    chosen = {k: v for k, v in config["settings"].items() if v is not None}
    settings = "\n".join(f"{k}: {v}" for k, v in {**config.get("setup", {}), **chosen}.items())
    files = [(name, words) for name, words in _FILES.items() if (folder / name).exists()]
    files += [
        (path.name, "the network's arrays by name")
        for path in sorted(folder.glob("*-seed*.safetensors"))
    ]
    parts = [
        repeated(config.get("command")),
        f'<p class="words">{text(versions)}</p>' if versions else "",
        table((), files, "nw") if files else "",
        f"<details><summary>All settings</summary><pre>{text(settings)}</pre></details>",
    ]
    return "".join(parts)


def _unseen(result: dict[str, Any]) -> str:
    """How many answers the accuracy rests on; without a number where an older run noted none."""
    return counted(result["held_out"], "answer") if "held_out" in result else "answers"


def _percent(share: float) -> str:
    return f"{share:.0%}" if np.isfinite(share) else UNKNOWN


def _known(value: float | None) -> float:
    return np.nan if value is None else value
