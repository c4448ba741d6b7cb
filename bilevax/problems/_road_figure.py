"""Maps of a road network: flows as widths, tolls as colours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import sparse
from scipy.sparse.csgraph import shortest_path

from ._tntp import RoadNetwork

_WIDEST = 7.0
"""Points, for the largest flow."""

_MANY_NODES = 60
"""Above this many nodes their numbers would overlap and are left out."""

# From a grey that shows on white: a road without toll is still a road.
_TOLLS = LinearSegmentedColormap.from_list(
    "tolls", ["#c3c9d1", "#f2c14e", "#e8743b", "#b3261e", "#4a0d1f"]
)


@dataclass(frozen=True)
class RoadMap:
    """One map: its title, and the toll and flow of each link, ``[L]``."""

    title: str
    tolls: np.ndarray
    flows: np.ndarray


def road_maps(road: RoadNetwork, panels: Sequence[RoadMap], *, title: str) -> Figure:
    """The network side by side, widths and colours on one scale.

    Each direction of a road is drawn on its right-hand side. Without coordinates the nodes are
    placed so that distances resemble free-flow travel times.
    """
    note = "each direction on the right of its road"
    if road.coordinates is None:
        points = _by_times(road)
        note += "; without coordinates, nodes are placed by travel times"
    else:
        points = _flat(road.coordinates)
    width, height = np.maximum(np.ptp(points, axis=0), 1e-12)
    tall = float(np.clip(height / width, 0.5, 1.5))
    figure = Figure(figsize=(5.2 * len(panels) + 1.2, 5.2 * tall + 1.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    norm = Normalize(0, max(float(np.max([panel.tolls for panel in panels])), 1e-12))
    largest = max(float(np.max([panel.flows for panel in panels])), 1e-12)
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, road, points, panel, norm, largest)
        ax.set_title(panel.title, fontsize=10)
    figure.colorbar(ScalarMappable(norm, _TOLLS), ax=axes, label="toll in minutes", shrink=0.7)
    figure.legend(
        handles=[
            Line2D([], [], color="0.45", lw=_WIDEST * flow / largest, label=f"{flow:,.0f}")
            for flow in _round_flows(largest)
        ],
        title=f"vehicles along a link ({note})",
        title_fontsize=8,
        fontsize=8,
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    return figure


def _draw(ax: Axes, road: RoadNetwork, points, panel: RoadMap, norm, largest) -> None:
    start, end = points[road.tail], points[road.head]
    along = end - start
    length = np.hypot(*along.T)[:, None]
    right = np.column_stack([along[:, 1], -along[:, 0]]) / np.where(length > 0, length, 1)
    # Half the width of the widest line, in the units of the map: both directions just fit.
    shift = 0.008 * np.max(np.ptp(points, axis=0))
    few = road.num_nodes <= _MANY_NODES
    inset = np.minimum(0.2, 2.2 * shift / np.where(length > 0, length, 1)) * along if few else 0
    segments = np.stack([start + inset, end - inset], axis=1) + shift * right[:, None]
    # Light roads first, so that a toll is never hidden under a road without one.
    order = np.argsort(panel.tolls, kind="stable")
    widths = np.maximum(_WIDEST * panel.flows / largest, 0.25)
    ax.add_collection(
        LineCollection(
            list(segments[order]),
            linewidths=widths[order],
            colors=_TOLLS(norm(panel.tolls[order])),
            capstyle="butt",
        )
    )
    if few:
        ax.scatter(*points.T, s=150, color="white", edgecolors="0.3", linewidths=0.8, zorder=3)
        for node, point in enumerate(points, start=1):
            ax.annotate(str(node), point, ha="center", va="center", fontsize=7, zorder=4)
    ax.set_aspect("equal")
    ax.margins(0.06)
    ax.autoscale_view()
    ax.set_axis_off()


def _round_flows(largest: float) -> list[float]:
    """A large, a middle and a small flow to explain widths with, the large one a round number."""
    unit = 10.0 ** np.floor(np.log10(largest))
    top = next(factor * unit for factor in (5, 2, 1) if factor * unit <= largest)
    return [top / 5, top / 2, top]


def _flat(coordinates: np.ndarray) -> np.ndarray:
    """Coordinates as they are; longitudes, where they look like degrees, to the scale of latitudes.

    Degrees of longitude are shorter by the cosine of the latitude.
    """
    longitude, latitude = coordinates.T
    degrees = np.all(np.abs(longitude) <= 180) and np.all(np.abs(latitude) <= 90)
    narrow = degrees and np.ptp(longitude) < 5 and np.ptp(latitude) < 5
    if not narrow:
        return coordinates
    return np.column_stack([longitude * np.cos(np.radians(latitude.mean())), latitude])


def _by_times(road: RoadNetwork) -> np.ndarray:
    """Places whose distances resemble free-flow times: classical multidimensional scaling."""
    graph = sparse.csr_array(
        (np.maximum(road.time, 1e-9), (road.tail, road.head)), (road.num_nodes, road.num_nodes)
    )
    times = shortest_path(graph, directed=False)
    far = np.max(times[np.isfinite(times)])
    squares = np.where(np.isfinite(times), times, 1.5 * far) ** 2
    centred = squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean()
    values, vectors = np.linalg.eigh(-0.5 * centred)
    return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
