"""Checkpoints: one line of JSON that says what the file is, then the arrays of a tree.

{"format": "bilevax-checkpoint", "version": 1, "bytes": ..., "crc32": ..., ...}
<the leaves, as equinox serialises them>
"""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import PyTree
from .files import replacing, to_json

_FORMAT = "bilevax-checkpoint"
_VERSION = 1


def save(path: Path, header: dict[str, Any], tree: PyTree) -> None:
    """Writes the checkpoint, or leaves the one that is there as it was."""
    payload = io.BytesIO()
    eqx.tree_serialise_leaves(payload, tree, _write_leaf)
    data = payload.getvalue()
    about = dict(format=_FORMAT, version=_VERSION, bytes=len(data), crc32=zlib.crc32(data))
    with replacing(path) as file:
        file.write(to_json(about | header).encode() + b"\n")
        file.write(data)


def load_header(path: Path) -> dict[str, Any]:
    """The first line of a checkpoint; ``ValueError`` if the file is none."""
    return _split(path)[0]


def load(path: Path, like: PyTree) -> PyTree:
    """The tree of a checkpoint, in the structure of ``like``.

    ``ValueError`` if the file is no checkpoint, is cut short, or holds another tree.
    """
    _, data = _split(path)
    file = io.BytesIO(data)
    try:
        tree = eqx.tree_deserialise_leaves(file, like, _read_leaf)
    except Exception as error:
        raise ValueError(f"{path} holds the state of another run: {_last_line(error)}.") from error
    if file.read(1):
        raise ValueError(f"{path} holds the state of another run: it has more arrays.")
    return tree


def _split(path):
    try:
        first, _, data = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        header = json.loads(first)
        known = header["format"] == _FORMAT
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{path} is not a checkpoint of bilevax.")
    if header["version"] != _VERSION:
        raise ValueError(
            f"{path} has version {header['version']} of the format, and this bilevax reads "
            f"version {_VERSION}."
        )
    if len(data) != header["bytes"] or zlib.crc32(data) != header["crc32"]:
        raise ValueError(
            f"{path} is damaged: it should hold {header['bytes']} bytes of arrays and has "
            f"{len(data)}" + (", with other content." if len(data) == header["bytes"] else ".")
        )
    return header, data


def is_key(leaf: Any) -> bool:
    """Whether the leaf is an array of typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _write_leaf(file, leaf):
    # NumPy's format has no typed random keys, only the integers that they are made of.
    data = jax.random.key_data(leaf) if is_key(leaf) else leaf
    eqx.default_serialise_filter_spec(file, data)


def _read_leaf(file, leaf):
    if not is_key(leaf):
        return eqx.default_deserialise_filter_spec(file, leaf)
    data = eqx.default_deserialise_filter_spec(file, jax.random.key_data(leaf))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def _last_line(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
