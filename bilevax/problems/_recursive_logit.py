"""Recursive logit on a road network: the MDP of travellers to each destination.

The state is the node and an action a link out of it; the step costs time, the entropy has the
weight theta, and the destination ends the trip (Fosgerau, Frejinger and Karlstrom 2013, "A link
based network route choice model with unrestricted choice set"). There are cycles and there is no
discount: the value is finite if and only if the matrix of exp(-cost/theta) over the links that do
not touch the destination has spectral radius below 1.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order
from scipy.sparse.linalg import splu

from .._mdp import MDP
from .._transition import SuccessorList
from ._tntp import RoadNetwork

_MOST_ENTRIES = 2**25
"""Above this many entries of all destinations' matrices together (256 MiB), none is kept."""

_MARGIN = 2e-8
"""Twice the margin of ``MDP``'s own check of discount 1, which then has nothing to add."""

_HALVINGS, _BISECTIONS = 40, 20


class Travellers(NamedTuple):
    """The MDP, stacked over destinations, and how its actions and the links correspond.

    ``travels`` [N, S, A]: whether an action drives along a link; ``link`` [S, A]: which link it is;
    ``place`` [L]: the action of each link, as a number state * A + action; ``trips``: their number;
    ``destinations`` [N]: which nodes they are.
    """

    mdp: MDP
    travels: np.ndarray
    link: np.ndarray
    place: np.ndarray
    trips: float
    destinations: np.ndarray


def travellers(road: RoadNetwork, theta: float) -> Travellers:
    """The travellers of a road network, one context per destination, without tolls.

    ``ValueError`` names a destination that cannot be reached, or at which the value is infinite
    (and then a theta that works).
    """
    demand = road.demand * ~np.eye(road.num_zones, dtype=bool)
    trips, destinations = float(demand.sum()), np.flatnonzero(demand.sum(0))
    if not trips > 0:
        raise ValueError("tolls: there are no trips between different zones; give some demand.")
    usable = np.stack([_usable_links(road, int(d), demand[:, d]) for d in destinations])
    _check_theta(road, theta, usable, destinations)
    link, place, exists = _slots(road)
    travels = usable[:, link] & exists
    available = travels.copy()
    # Where nobody travels, at the destination above all, the one action ends the trip at no cost.
    available[..., 0] |= ~travels.any(-1)
    initial = np.zeros((len(destinations), road.num_nodes))
    initial[:, : road.num_zones] = demand[:, destinations].T / trips
    matrices = len(destinations) * road.num_nodes**2
    free = MDP(
        np.where(travels, -road.time[link], 0.0),
        SuccessorList(
            road.head[link][..., None],
            travels[..., None].astype(float),
            matrix_free=matrices > _MOST_ENTRIES,
        ),
        discount=0.0,
        initial=initial,
        tau=theta,
        available=available,
    )
    # At discount 1 the check that MDP makes would solve every destination by policy iteration. The
    # one above is the same condition, by one factorisation each.
    mdp = eqx.tree_at(lambda mdp: mdp.discount, free, jnp.ones_like(free.discount))
    return Travellers(mdp, travels, link, place, trips, destinations)


def _slots(road: RoadNetwork):
    """Which link each (node, slot) is, [S, A]; where each link stands; and which slots exist."""
    order = np.argsort(road.tail, kind="stable")
    degree = np.bincount(road.tail, minlength=road.num_nodes)
    first = np.cumsum(degree) - degree
    slot = np.empty_like(order)
    slot[order] = np.arange(order.size) - first[road.tail[order]]
    link = np.zeros((road.num_nodes, degree.max()), int)
    exists = np.zeros(link.shape, bool)
    link[road.tail, slot], exists[road.tail, slot] = np.arange(order.size), True
    return link, road.tail * link.shape[1] + slot, exists


def _usable_links(road: RoadNetwork, destination: int, demand: np.ndarray) -> np.ndarray:
    """The links that trips to a destination may take, ``[L]``: those that still lead there."""
    allowed = (road.tail != destination) & (
        (road.head >= road.first_through) | (road.head == destination)
    )
    backwards = sparse.csr_array(
        (np.ones(allowed.sum()), (road.head[allowed], road.tail[allowed])),
        (road.num_nodes, road.num_nodes),
    )
    reaches = np.zeros(road.num_nodes, bool)
    reaches[breadth_first_order(backwards, destination, return_predecessors=False)] = True
    lost = np.flatnonzero((demand > 0) & ~reaches[: road.num_zones])
    if lost.size:
        raise ValueError(
            f"tolls: destination {destination + 1} cannot be reached from zone {lost[0] + 1}, "
            f"where {demand[lost[0]]:g} trips to it start; add a link, or lower FIRST THRU NODE "
            "(nodes below it are not driven through)."
        )
    return allowed & reaches[road.head]


def _check_theta(road: RoadNetwork, theta: float, usable: np.ndarray, destinations) -> None:
    works, endless = theta, []
    for links, destination in zip(usable, destinations.tolist(), strict=True):
        if not _is_finite(road, theta, links, destination):
            endless.append(destination + 1)
            if works > 0 and not _is_finite(road, works, links, destination):
                works = _largest_theta(road, works, links, destination)
    if not endless:
        return
    if not works > 0:
        raise ValueError(
            f"tolls: travelling to destination {endless[0]} has an infinite value at every theta: "
            "links without any free-flow time make a circle; give them some."
        )
    others = f" (and to {len(endless) - 1} others)" if len(endless) > 1 else ""
    raise ValueError(
        f"tolls: at theta = {theta:g} travelling to destination {endless[0]}{others} has an "
        "infinite value: so much variety makes up for driving in circles; "
        f"theta = {_rounded_down(works):g} works for every destination."
    )


def _is_finite(road: RoadNetwork, theta: float, links: np.ndarray, destination: int) -> bool:
    """Whether the spectral radius of M = exp(-cost/theta) is below 1, by one factorisation.

    M >= 0, so that it is if and only if some z > 0 has z - M z > 0 (Berman and Plemmons 1994,
    theorem 6.2.3).
    """
    inner = links & (road.head != destination)
    margin = _MARGIN * (road.time.max() + theta * np.log(road.num_nodes))
    exponent = (margin - road.time[inner]) / theta
    if np.any(exponent > 1):  # a link that by itself is worth more than its cost: no time at all
        return False
    weight = np.exp(exponent)
    place = road.tail[inner], road.head[inner]
    matrix = sparse.csr_array((weight, place), (road.num_nodes, road.num_nodes))
    try:
        z = splu(sparse.csc_array(sparse.eye_array(road.num_nodes) - matrix)).solve(
            np.ones(road.num_nodes)
        )
    except RuntimeError:  # singular: the radius is 1
        return False
    return bool(np.isfinite(z).all() and (z > 0).all() and (z - matrix @ z > 0).all())


def _largest_theta(road: RoadNetwork, above: float, links: np.ndarray, destination: int) -> float:
    """A theta below ``above`` with a finite value, nearly the largest; 0 if there is none."""
    for halving in range(1, _HALVINGS):
        below = above / 2**halving
        if _is_finite(road, below, links, destination):
            break
    else:
        return 0.0
    above = 2 * below
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2
        if _is_finite(road, middle, links, destination):
            below = middle
        else:
            above = middle
    return below


def _rounded_down(value: float) -> float:
    """The value with two digits, and no larger."""
    unit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(f"{np.floor(value / unit) * unit:.12g}")
