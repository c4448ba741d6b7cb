"""Road networks in the TNTP text format: links, demand between zones, and coordinates.

A file starts with metadata, ``<TAG> value``, up to ``<END OF METADATA>``. ``~`` starts a comment,
and rows end with ``;``. Nodes are numbered from 1, and the first of them are the zones, where trips
start and end (Transportation Networks for Research Core Team, "Transportation Networks for
Research", which describes the format and publishes networks in it).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_END = "END OF METADATA"
_COLUMNS = ("tail", "head", "capacity", "length", "free-flow time", "b", "power")
_SLACK = 1e-3
"""How far the trips may be from the total in the metadata: published totals are rounded."""


@dataclass(frozen=True)
class RoadNetwork:
    """A road network with its demand; nodes, zones and links are numbered from 0.

    Attributes:
        tail, head: where each link starts and ends, shape ``[L]``.
        capacity, time, b, power: of each link, shape ``[L]``. At a flow f its travel time is time
            (1 + b (f / capacity)^power) (Bureau of Public Roads).
        demand: trips from each zone to each zone, shape ``[Z, Z]``.
        num_nodes: S; nodes 0 to Z - 1 are the zones.
        first_through: nodes below this one may start or end a trip, and may not be driven through.
        coordinates: of each node, shape ``[S, 2]``, or ``None``.
    """

    tail: np.ndarray
    head: np.ndarray
    capacity: np.ndarray
    time: np.ndarray
    b: np.ndarray
    power: np.ndarray
    demand: np.ndarray
    num_nodes: int
    first_through: int
    coordinates: np.ndarray | None

    @property
    def num_links(self) -> int:
        return self.tail.size

    @property
    def num_zones(self) -> int:
        return self.demand.shape[0]


def read_network(
    network: str | Path, trips: str | Path, nodes: str | Path | None = None
) -> RoadNetwork:
    """The road network in TNTP files.

    Arguments:
        network: links: start, end, capacity, length, free-flow time, b and power in each row; what
            follows (speed, toll, type) is not read.
        trips: demand: ``Origin o``, then ``destination : trips;`` again and again.
        nodes: coordinates: node, x and y in each row.

    Raises ``ValueError`` with the file, and the line where there is one, on missing metadata, rows
    that cannot be read, nodes that do not exist, and counts that differ from the metadata.
    """
    links = _File(network)
    zones, num_nodes, first = (
        links.whole(tag) for tag in ("NUMBER OF ZONES", "NUMBER OF NODES", "FIRST THRU NODE")
    )
    if not 1 <= zones <= num_nodes:
        raise ValueError(
            f"{network}: <NUMBER OF ZONES> is {zones} and <NUMBER OF NODES> {num_nodes}; the zones "
            "are the first of the nodes."
        )
    if not 1 <= first <= num_nodes + 1:
        raise ValueError(
            f"{network}: <FIRST THRU NODE> is {first}; give a node from 1 to {num_nodes} (or "
            f"{num_nodes + 1} where no node may be driven through)."
        )
    tail, head, capacity, _, time, b, power = _links(links, num_nodes)
    return RoadNetwork(
        tail=tail.astype(int) - 1,
        head=head.astype(int) - 1,
        capacity=capacity,
        time=time,
        b=b,
        power=power,
        demand=_demand(_File(trips), zones),
        num_nodes=num_nodes,
        first_through=first - 1,
        coordinates=None if nodes is None else _coordinates(nodes, num_nodes),
    )


class _File:
    """A file's metadata, and its rows with their line numbers."""

    def __init__(self, path: str | Path):
        self.path, self.tags, self.rows = path, {}, []
        ended = False
        for line, text in _lines(path):
            tag = re.match(r"<([^>]*)>(.*)", text)
            if tag and not ended:
                self.tags[tag[1].strip().upper()] = line, tag[2].strip()
                ended = tag[1].strip().upper() == _END
            elif not ended:
                raise ValueError(
                    f"{path}:{line}: {_short(text)} stands before <{_END}>; the file must start "
                    "with metadata, as <NUMBER OF ZONES> 24."
                )
            else:
                self.rows.append((line, text))
        if not ended:
            raise ValueError(f"{path}: there is no line <{_END}>, so this is no TNTP file.")

    def whole(self, tag: str) -> int:
        """A whole number of the metadata."""
        if tag not in self.tags:
            raise ValueError(f"{self.path}: the metadata lack <{tag}>.")
        line, text = self.tags[tag]
        if not re.fullmatch(r"\d+", text):
            raise ValueError(f"{self.path}:{line}: <{tag}> is {text!r}; give a whole number.")
        return int(text)


def _lines(path) -> Iterator[tuple[int, str]]:
    """The lines that hold something beside a comment, numbered from 1."""
    try:
        content = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    for line, text in enumerate(content.splitlines(), start=1):
        text = text.partition("~")[0].strip()
        if text:
            yield line, text


def _links(file: _File, num_nodes: int) -> np.ndarray:
    """The columns of the links, shape ``[7, L]``."""
    rows = []
    for line, text in file.rows:
        where = f"{file.path}:{line}"
        row = _numbers(where, text, _COLUMNS)
        for name, node in zip(("starts", "ends"), row[:2], strict=True):
            _check_number(where, f"the link {name} at node", node, num_nodes, "nodes")
        if row[0] == row[1]:
            raise ValueError(f"{where}: the link leads from node {row[0]:g} to itself.")
        for name, value in zip(_COLUMNS[2:], row[2:], strict=True):
            if value < 0:
                raise ValueError(f"{where}: {name} is {value:g}; give a number of at least 0.")
        if row[2] == 0 and row[5] > 0:
            raise ValueError(f"{where}: capacity is 0; give a positive number (or set b to 0).")
        rows.append(row)
    expected = file.whole("NUMBER OF LINKS")
    if len(rows) != expected or not rows:
        raise ValueError(
            f"{file.path}: there are {len(rows)} links, and <NUMBER OF LINKS> is {expected}; "
            "the file is cut short, or the number is wrong."
        )
    return np.transpose(rows)


def _demand(file: _File, zones: int) -> np.ndarray:
    """Trips between zones, shape ``[Z, Z]``."""
    own = file.whole("NUMBER OF ZONES")
    if own != zones:
        raise ValueError(
            f"{file.path}: <NUMBER OF ZONES> is {own}, but the network has {zones} zones."
        )
    demand = np.full((zones, zones), np.nan)
    origin = None
    for line, text in file.rows:
        where = f"{file.path}:{line}"
        start = re.fullmatch(r"origin\s*(\S+)", text, re.IGNORECASE)
        if start:
            origin = _number(where, "the origin", start[1])
            _check_number(where, "the origin is zone", origin, zones, "zones")
            continue
        if origin is None:
            raise ValueError(f"{where}: {_short(text)} stands before the first line Origin.")
        for entry in filter(str.strip, text.split(";")):
            place, colon, trips = entry.partition(":")
            if not colon:
                raise ValueError(f"{where}: {_short(entry)} should read destination : trips;")
            to = _number(where, "the destination", place)
            _check_number(where, "the destination is zone", to, zones, "zones")
            number = _number(where, "the number of trips", trips)
            if number < 0:
                raise ValueError(f"{where}: {number:g} trips; give a number of at least 0.")
            if not np.isnan(demand[int(origin) - 1, int(to) - 1]):
                raise ValueError(
                    f"{where}: trips from zone {origin:g} to zone {to:g} are given a second time."
                )
            demand[int(origin) - 1, int(to) - 1] = number
    demand = np.nan_to_num(demand)
    _check_total(file, demand.sum())
    return demand


def _check_total(file: _File, total: float) -> None:
    if "TOTAL OD FLOW" not in file.tags:
        return
    line, text = file.tags["TOTAL OD FLOW"]
    stated = _number(f"{file.path}:{line}", "<TOTAL OD FLOW>", text)
    if abs(total - stated) > _SLACK * max(total, stated):
        raise ValueError(
            f"{file.path}: the trips sum to {total:.10g}, and <TOTAL OD FLOW> is {stated:.10g}; "
            "the file is cut short, or the number is wrong."
        )


def _coordinates(path: str | Path, num_nodes: int) -> np.ndarray:
    """Coordinates, shape ``[S, 2]``; this file has no metadata, and perhaps a line of names."""
    found = np.full((num_nodes, 2), np.nan)
    for line, text in _lines(path):
        if re.match(r"(node|id|<)", text, re.IGNORECASE):
            continue
        where = f"{path}:{line}"
        node, *point = _numbers(where, text, ("node", "x", "y"))
        _check_number(where, "there is no node", node, num_nodes, "nodes")
        found[int(node) - 1] = point
    missing = np.flatnonzero(np.isnan(found[:, 0]))
    if missing.size:
        raise ValueError(
            f"{path}: node {missing[0] + 1} has no coordinates; every node needs a row."
        )
    return found


def _numbers(where: str, text: str, names: tuple[str, ...]) -> list[float]:
    """The first numbers of a row, one for each name."""
    parts = re.split(r"[\s,]+", text.rstrip("; \t"))
    if len(parts) < len(names):
        raise ValueError(
            f"{where}: the row has {len(parts)} columns; give at least {len(names)}: "
            f"{', '.join(names)}."
        )
    return [_number(where, *pair) for pair in zip(names, parts, strict=False)]


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{where}: {name} is {_short(text)}; give a finite number.")
    return value


def _check_number(where: str, what: str, number: float, largest: int, kind: str) -> None:
    if not (number.is_integer() and 1 <= number <= largest):
        raise ValueError(f"{where}: {what} {number:g}; {kind} are numbered 1 to {largest}.")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 30 else f"{text[:27]}...")
