"""The folder of a run of RL from human feedback.

config.json               everything needed to repeat the run, where the caller gave it
history.jsonl             a line per round and seed
seed0.checkpoint          the state of a seed, while the run is unfinished
policy-seed0.safetensors  the scored policy's network, arrays by name
reward-seed0.safetensors  the reward ensemble's
segments.npz              predicted and true returns of segments of every final policy
result.json               the outcome in numbers
"""

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._types import PyTree
from ...io import checkpoint
from ...io.files import read_json, replacing, to_json, write_json, write_text
from ...io.provenance import installed
from ...io.run_folder import CONFIG, HISTORY, RESULT, check_new_folder
from .base import AbstractAlgorithm, RLHFState, cut
from .outcome import RLHFRun

SEGMENTS = "segments.npz"
_CHECKPOINT = re.compile(r"seed(\d+)\.checkpoint$")


def need_safetensors() -> None:
    """``ModuleNotFoundError`` names the extra, before the work rather than after it."""
    if importlib.util.find_spec("safetensors") is None:
        raise ModuleNotFoundError(
            "Saving networks needs safetensors: install it with pip install 'bilevax[deep]'.",
            name="safetensors",
        )


def check_unfinished_rlhf(folder: Path, seeds: Sequence[int]) -> None:
    """``ValueError`` unless the folder holds an unfinished run, of these seeds."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, and so holds no run to resume.")
    if (folder / RESULT).exists():
        raise ValueError(f"the run in {folder} is finished: there is nothing to resume.")
    if not (folder / HISTORY).exists():
        raise ValueError(f"{folder} holds no run of RL from human feedback: it has no {HISTORY}.")
    saved = (int(name[1]) for path in folder.iterdir() if (name := _CHECKPOINT.match(path.name)))
    found = {line["seed"] for line in read_rlhf_history(folder)}.union(saved)
    if not found <= set(seeds):
        raise ValueError(
            f"the run in {folder} is one of seeds {sorted(found)}, and seeds is {list(seeds)}: "
            "resume with the seeds that it was started with, or start anew in another folder."
        )


def check_config(folder: Path, config: dict[str, Any]) -> None:
    """``ValueError`` where the folder holds another ``config.json`` than this one."""
    path = folder / CONFIG
    if not path.exists():
        return
    found, given = read_json(path), json.loads(to_json(config))
    if found != given:
        raise ValueError(
            f"run_rlhf: config is not what {path} holds; resume with exactly what the run was "
            "started with, or leave config out."
        )


def open_folder(folder: Path, config: dict[str, Any] | None) -> None:
    """Makes the folder of a new run."""
    check_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        write_json(folder / CONFIG, config)
    (folder / HISTORY).touch()


def checkpoint_path(folder: Path, seed: int) -> Path:
    """Where the state of a seed is kept."""
    return folder / f"seed{seed}.checkpoint"


def description(algorithm: AbstractAlgorithm, parameters: PyTree) -> str:
    """All that an algorithm computes with: settings, arrays, its optimiser's moves of these."""
    # An optimiser is made of closures; only what it computes shows its learning rate.
    optimizer = algorithm.setup.learner.optimizer
    moves = jax.make_jaxpr(optimizer.update)(parameters, optimizer.init(parameters), parameters)
    numbers = lambda z: jax.random.key_data(z) if checkpoint.is_key(z) else z
    leaves = filter(eqx.is_array, jax.tree.leaves(algorithm))
    arrays = [np.asarray(numbers(z)).tolist() for z in leaves]
    return _lines(algorithm, algorithm.setup.sampler.spec, moves, arrays)


def fingerprint(algorithm: AbstractAlgorithm, teacher: object, seed: int, first: RLHFState) -> str:
    """A hash of all that a run depends on: algorithm, teacher, seed, versions and device kind."""
    described = description(algorithm, eqx.filter(first.policy.agent.network, eqx.is_array))
    text = "\n".join([described, _lines(teacher, seed, *_versions().values())])
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(*parts):
    return "\n".join(re.sub(r" at 0x[0-9a-f]+", "", repr(part)) for part in parts)


def save_state(path: Path, state: RLHFState, mark: str, seconds: float) -> None:
    """Writes the checkpoint of a seed, or leaves the one that is there as it was."""
    header = dict(fingerprint=mark, round=int(state.round), seconds=seconds) | _versions()
    checkpoint.save(path, header, state)


def load_state(path: Path, like: RLHFState, mark: str) -> tuple[RLHFState, float]:
    """The state of a seed and the seconds it took; ``ValueError`` if it is another run's."""
    header = checkpoint.load_header(path)
    if header.get("fingerprint") != mark:
        raise ValueError(
            f"{path} belongs to another algorithm, environment, teacher, seed or version (it was "
            f"written by bilevax {header.get('bilevax')} with jax {header.get('jax')}): resume "
            "with exactly what the run was started with, or start anew in another folder."
        )
    return checkpoint.load(path, like), header["seconds"]


def read_rlhf_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of the history, NaN where a number was missing.

    A last line that was cut short by a crash is left out.
    """
    path = folder / HISTORY
    try:
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        whole = ("seed", "round", "steps", "labels", "seconds")
        assert all(isinstance(line[name], int | float) for line in lines for name in whole)
    except (OSError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise ValueError(f"{path} is not the history of a run.") from error
    return [{k: np.nan if v is None else v for k, v in line.items()} for line in lines]


def rewrite_history(folder: Path, rounds: dict[int, int]) -> list[dict[str, Any]]:
    """The history up to each seed's checkpoint, ``rounds[seed]``; later lines are removed."""
    lines = read_rlhf_history(folder)
    kept = [line for line in lines if line["round"] < rounds.get(line["seed"], 0)]
    write_text(folder / HISTORY, "".join(to_json(line) + "\n" for line in kept))
    return kept


def save_networks(folder: Path, seed: int, state: RLHFState, environment: str) -> None:
    """Writes the scored policy's network, and the reward ensemble, as safetensors.

    The names are those of the attributes: ``torso.layers.0.weight``, ``actor.bias``.
    """
    about = {"environment": environment}  # one entry: of several the file's order is random
    networks = {"policy": state.policy.agent.network, "reward": state.reward.model}
    for kind, network in networks.items():
        save_network(folder / f"{kind}-seed{seed}.safetensors", network, about)


def save_segments(folder: Path, algorithm: AbstractAlgorithm, run: RLHFRun) -> None:
    """Writes predicted and true returns of 256 segments of each seed's final policy, ``[K, 256]``.

    Predictions are in the normalised reward that the policy learned from.
    """
    if not algorithm.asks:
        return
    with jax.enable_x64(False):
        pairs = [_segment_returns(algorithm.setup, one.state) for one in run.seeds]
    predicted, true = (np.stack(part) for part in zip(*jax.device_get(pairs), strict=True))
    with replacing(folder / SEGMENTS) as file:
        seeds = np.asarray([one.seed for one in run.seeds])
        np.savez(file, allow_pickle=False, seed=seeds, predicted=predicted, true=true)


@eqx.filter_jit
def _segment_returns(setup, state):
    segments, _ = cut(setup, state.policy.window, state.key, 256)
    rate = state.normalizer.apply(state.reward.model(segments.observation, segments.action))
    return jnp.sum(rate, axis=1), jnp.sum(segments.reward, axis=1)


def save_network(path: Path, network: PyTree, about: dict[str, str]) -> None:
    """Writes the arrays of a network by name, or nothing."""
    from safetensors.numpy import save

    with replacing(path) as file:
        file.write(save({k: np.asarray(v) for k, v in _named(network).items()}, metadata=about))


def load_network(path: Path, like: PyTree) -> PyTree:
    """A network of the shapes of ``like``; ``ValueError`` where the file holds another.

    ``like`` may hold arrays or ``jax.ShapeDtypeStruct``.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    wanted = _named(like)
    shapes = lambda named: {name: (a.shape, str(a.dtype)) for name, a in named.items()}
    if shapes(arrays) != shapes(wanted):
        raise ValueError(f"{path} holds a network of another environment or of other layers.")
    dynamic, static = eqx.partition(like, _is_array)
    leaves = [jnp.asarray(arrays[name]) for name in wanted]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), leaves), static)


def sync(file) -> None:
    """What a checkpoint counts as written must be on the disk before it is."""
    file.flush()
    os.fsync(file.fileno())


def _named(network) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(network, _is_array))
    part = lambda entry: str(getattr(entry, "name", getattr(entry, "idx", entry)))
    return {".".join(map(part, path)): leaf for path, leaf in leaves}


def _is_array(leaf):
    return isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)


def _versions() -> dict[str, str]:
    packages = installed("bilevax", "jax", "jaxlib", "equinox", "optax")
    return packages | {"device": jax.devices()[0].device_kind}
