"""Preferences on disk: ``pairs.npz`` with the arrays, ``manifest.json`` with what they are.

Nothing in them can run code: the arrays are read without pickle, and only after their checksum.
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..io.files import read_json, replacing, write_json
from .buffer import Pairs
from .segments import Segments
from .teacher import Answers

MANIFEST = "manifest.json"
_FORMAT = "bilevax-preferences"
_VERSION = 1
_PARTS = ("observation", "action", "log_prob", "reward")


class Manifest(eqx.Module):
    """What a data set of preferences holds.

    Attributes:
        environment: the name of the environment its segments come from.
        num_actions: how many actions that has.
        teacher: who answered, in words.
        pairs, segment_length: the numbers of pairs, and of steps in each segment.
        observation_shape, observation_dtype: of one step.
        sha256: of ``pairs.npz``.
    """

    environment: str
    num_actions: int
    teacher: str
    pairs: int
    segment_length: int
    observation_shape: tuple[int, ...]
    observation_dtype: str
    sha256: str

    def require(
        self, *, environment: str, num_actions: int, observation_shape: tuple[int, ...]
    ) -> None:
        """``ValueError`` naming what differs if the pairs do not come from this environment."""
        wanted = dict(
            environment=environment,
            num_actions=num_actions,
            observation_shape=tuple(observation_shape),
        )
        for name, value in wanted.items():
            found = getattr(self, name)
            if found != value:
                raise ValueError(
                    f"The data set of preferences has {name} {found}, and the environment "
                    f"{value}; load one that was recorded there."
                )


def save_dataset(
    directory: Path | str, pairs: Pairs, *, environment: str, num_actions: int, teacher: str
) -> Manifest:
    """Writes both files into ``directory``, which is made if it is not there."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(array) for name, array in _named(pairs).items()}
    payload = io.BytesIO()
    np.savez_compressed(payload, allow_pickle=False, **arrays)
    data = payload.getvalue()
    seen = arrays["first_observation"]
    manifest = Manifest(
        environment=environment,
        num_actions=num_actions,
        teacher=teacher,
        pairs=seen.shape[0],
        segment_length=seen.shape[1],
        observation_shape=seen.shape[2:],
        observation_dtype=str(seen.dtype),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    # The old manifest does not fit the new arrays: a crash in between is refused, not misread.
    with replacing(directory / "pairs.npz") as file:
        file.write(data)
    write_json(directory / MANIFEST, {"format": _FORMAT, "version": _VERSION} | vars(manifest))
    return manifest


def load_dataset(directory: Path | str) -> tuple[Pairs, Manifest]:
    """The pairs and their manifest; ``ValueError`` says which file is wrong, and how."""
    directory = Path(directory)
    manifest = _read_manifest(directory / MANIFEST)
    path = directory / "pairs.npz"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.sha256:
        raise ValueError(
            f"{path} is damaged or of another data set: its sha256 is {found[:12]}..., and the "
            f"manifest says {manifest.sha256[:12]}..."
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no npz file of plain arrays.") from error
    _check(path, arrays, manifest)
    segments = lambda which: Segments(*(jnp.asarray(arrays[f"{which}_{part}"]) for part in _PARTS))
    answers = Answers(jnp.asarray(arrays["second"]), jnp.asarray(arrays["weight"]))
    return Pairs(segments("first"), segments("second"), answers), manifest


def _named(pairs) -> dict[str, Any]:
    named = {
        f"{which}_{part}": getattr(getattr(pairs, which), part)
        for which in ("first", "second")
        for part in _PARTS
    }
    return named | {"second": pairs.answers.second, "weight": pairs.answers.weight}


def _read_manifest(path):
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is not the manifest of a data set of preferences of bilevax.")
    if content.get("version") != _VERSION:
        raise ValueError(
            f"{path} has version {json.dumps(content.get('version'))} of the format, and this "
            f"bilevax reads version {_VERSION}."
        )
    fields = {}
    for name, kind in Manifest.__annotations__.items():
        value = content.get(name)
        if name == "observation_shape" and isinstance(value, list):
            value = tuple(value)
        sizes = value if isinstance(value, tuple) else ()
        fine = isinstance(value, tuple) if name == "observation_shape" else type(value) is kind
        if not fine or not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError(f"{path}: {name} is {json.dumps(value)}, which cannot be.")
        fields[name] = value
    return Manifest(**fields)


def _check(path, arrays, manifest):
    """``ValueError`` where the arrays are not what the manifest says, or hold impossible values."""
    steps = (manifest.pairs, manifest.segment_length)
    for which in ("first", "second"):
        seen = _check_array(
            path, arrays, f"{which}_observation", (*steps, *manifest.observation_shape), "biuf"
        )
        if seen.dtype != manifest.observation_dtype:
            raise ValueError(
                f"{path}: {which}_observation has dtype {seen.dtype}, and the manifest says "
                f"{manifest.observation_dtype}."
            )
        actions = _check_array(path, arrays, f"{which}_action", steps, "iu")
        if actions.size and not (actions.min() >= 0 and actions.max() < manifest.num_actions):
            raise ValueError(
                f"{path}: {which}_action goes from {actions.min()} to {actions.max()}, and the "
                f"manifest says {manifest.num_actions} actions."
            )
        _check_array(path, arrays, f"{which}_log_prob", steps, "f")
        _check_array(path, arrays, f"{which}_reward", steps, "f")
    second = _check_array(path, arrays, "second", steps[:1], "f")
    weight = _check_array(path, arrays, "weight", steps[:1], "f")
    if not (np.all((second >= 0) & (second <= 1)) and np.all((weight >= 0) & (weight < np.inf))):
        raise ValueError(f"{path}: an answer is no probability, or has no finite weight >= 0.")


def _check_array(path, arrays, name, shape, kinds):
    array = arrays.get(name)
    if array is None or array.shape != shape or array.dtype.kind not in kinds:
        found = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
        raise ValueError(f"{path}: {name} is {found}; the manifest asks for shape {list(shape)}.")
    return array
