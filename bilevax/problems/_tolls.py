"""Toll design on a road network: tolls on links, and travellers who choose their routes."""

from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._evaluation import Evaluation, evaluate
from .._gap import best_responses
from .._mdp import MDP
from .._solution import Solution
from .._solver import PBRL, Alternating, Homotopy
from .._types import Array, Bool, Float, Int, Key, Scalar
from ._recursive_logit import travellers
from ._tntp import RoadNetwork, read_network
from ._zoo import ZooProblem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRID, _REFINEMENTS = 11, 12
"""Uniform tolls tried, evenly spaced and then by golden section around the best."""


class TollDesign(eqx.Module):
    """Travellers to N destinations on L links; x are the links' tolls, in [0, max_toll].

    Travellers see free-flow times and tolls, not congestion: their answer to the tolls is an MDP,
    no traffic equilibrium. The upper level counts congestion, by the links' BPR functions.

    Attributes:
        mdp: the travellers without tolls, one context per destination; rho is the share of all
            trips that start at a node and go to that destination.
        travels: whether an action drives along a link, and neither arrives nor is masked.
        link: the link of each action.
        place: the action of each link, as a number state * A + action.
        time, capacity, b, power: as in ``RoadNetwork``.
        trips: the number of all trips.
        max_toll: the largest toll, in the unit of time.
        revenue_weight: what a unit of revenue is worth to the upper level, in units of time.
    """

    mdp: MDP
    travels: Bool[Array, "N S A"]
    link: Int[Array, "S A"]
    place: Int[Array, " L"]
    time: Float[Array, " L"]
    capacity: Float[Array, " L"]
    b: Float[Array, " L"]
    power: Float[Array, " L"]
    trips: Scalar
    max_toll: Scalar
    revenue_weight: Scalar

    def lower(self, x: Float[Array, " L"]) -> MDP:
        """The travellers' MDP: each step costs the link's free-flow time and toll."""
        toll = jnp.where(self.travels, x[self.link], 0)
        return eqx.tree_at(lambda mdp: mdp.reward, self.mdp, self.mdp.reward - toll)

    def link_flows(self, evaluation: Evaluation) -> Float[Array, " L"]:
        """Trips along each link: the occupancies of the links, summed over destinations."""
        moves = jnp.where(self.travels, evaluation.state_action_occupancy, 0)
        return self.trips * jnp.sum(moves, axis=0).reshape(-1)[self.place]

    def link_times(self, flows: Float[Array, " L"]) -> Float[Array, " L"]:
        """time (1 + b (flow / capacity)^power), the BPR travel time of each link."""
        used = (flows > 0) & (self.b > 0)
        # Both branches of a where are differentiated: an unused link must not see a power of 0.
        load = jnp.where(used, flows, 1) / jnp.where(self.b > 0, self.capacity, 1)
        return self.time * (1 + self.b * jnp.where(used, load**self.power, self.power == 0))

    def total_travel_time(self, flows: Float[Array, " L"]) -> Scalar:
        """sum over links of flow times travel time at that flow."""
        return jnp.sum(flows * self.link_times(flows))

    def upper(self, x: Float[Array, " L"], policy, evaluation: Evaluation) -> Scalar:
        """(total travel time - revenue_weight revenue) / trips: the mean over travellers."""
        flows = self.link_flows(evaluation)
        revenue = jnp.sum(flows * x)
        return (self.total_travel_time(flows) - self.revenue_weight * revenue) / self.trips

    def project(self, x: Float[Array, " L"]) -> Float[Array, " L"]:
        """The projection onto [0, max_toll]."""
        return optax.projections.projection_box(x, 0.0, self.max_toll)


def tolls(
    *,
    network: str,
    trips: str,
    nodes: str | None = None,
    max_toll: float = 10.0,
    theta: float = 2.0,
    revenue_weight: float = 0.0,
) -> ZooProblem:
    """Tolls on the links of a road network, so that travellers' routes cause less congestion.

    ``network``, ``trips`` and ``nodes`` (coordinates, for the picture) are files in the TNTP
    format. Travellers to each destination choose links by recursive logit (Fosgerau, Frejinger and
    Karlstrom 2013): a soft-optimal MDP on the nodes, whose steps cost free-flow time plus toll,
    whose entropy has the weight ``theta`` (minutes, or whatever unit the network's times have) and
    which ends at the destination. Nodes below FIRST THRU NODE are not driven through. Travellers
    respond to free-flow times and tolls and not to congestion. Trips within a zone are left out.

    x are the tolls, in [0, ``max_toll``], as minutes of a traveller's time. The upper value is the
    mean BPR travel time of a trip, less ``revenue_weight`` times the mean toll paid. ``known``
    holds it without tolls and under the best toll that is the same on all links.
    """
    for name, value in (("max_toll", max_toll), ("theta", theta)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"tolls: {name} is {value}; give a positive number.")
    if not np.isfinite(revenue_weight):
        raise ValueError(f"tolls: revenue_weight is {revenue_weight}; give a finite number.")
    road = read_network(network, trips, nodes)
    problem = _toll_design(road, float(max_toll), float(theta), float(revenue_weight))
    before = _answer(problem, jnp.zeros(road.num_links))
    uniform = _best_uniform_toll(problem, float(max_toll))
    return ZooProblem(
        name="tolls",
        summary=(
            f"An authority sets tolls of up to {max_toll:g} minutes on the {road.num_links} links "
            "of a road network; travellers choose their routes by free-flow times and tolls, not "
            "by congestion; the authority wants the mean travel time (in minutes, congestion "
            f"included){_less_revenue(revenue_weight)} low."
        ),
        problem=problem,
        starts=partial(_starts, road.num_links, float(max_toll)),
        maximize=False,
        solver=PBRL(
            penalty_weight=Homotopy(1.0, 1e3, 800),
            # Congestion grows as the fourth power of flow: full policy steps overshoot.
            update=Alternating(optax.adam(0.1), policy_step=0.2),
        ),
        steps=1000,
        default_starts=4,
        figure=partial(_figure, problem, road, before),
        known={
            "without tolls": float(before[0]),
            f"best uniform toll, {uniform[0]:.3g} on every link": uniform[1],
        },
        arrays=partial(_arrays, problem, road),
        measures=partial(_measures, problem, before, uniform[0]),
    )


def _less_revenue(weight: float) -> str:
    return f", less {weight:g} times the mean toll paid (in minutes)," if weight else ""


def _toll_design(road: RoadNetwork, max_toll: float, theta: float, revenue_weight: float):
    made = travellers(road, theta)
    array = lambda values: jnp.asarray(values, float)
    return TollDesign(
        mdp=made.mdp,
        travels=jnp.asarray(made.travels),
        link=jnp.asarray(made.link),
        place=jnp.asarray(made.place),
        time=array(road.time),
        capacity=array(road.capacity),
        b=array(road.b),
        power=array(road.power),
        trips=array(made.trips),
        max_toll=array(max_toll),
        revenue_weight=array(revenue_weight),
    )


@eqx.filter_jit
def _answer(problem: TollDesign, x: Float[Array, " L"]) -> tuple[Scalar, Float[Array, " L"]]:
    """F(x), and the flows at the travellers' exact best response."""
    mdp = problem.lower(x)
    response = best_responses(mdp)
    policy = response.policy
    evaluation = evaluate(mdp, policy)
    upper, flows = problem.upper(x, policy, evaluation), problem.link_flows(evaluation)
    found = jnp.all(response.found)  # else not a number rather than a wrong one
    return jnp.where(found, upper, jnp.nan), jnp.where(found, flows, jnp.nan)


def _best_uniform_toll(problem: TollDesign, max_toll: float) -> tuple[float, float]:
    """The best toll that is the same on all links, and F there.

    A grid, then golden section around its best point: the least F where F has one minimum there.
    """
    ones = jnp.ones_like(problem.time)
    seen: dict[float, float] = {}

    def value(toll: float) -> float:
        if toll not in seen:
            seen[toll] = float(_answer(problem, toll * ones)[0])
        return seen[toll]

    grid = np.linspace(0, max_toll, _GRID).tolist()
    best = int(np.argmin([value(toll) for toll in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    ratio = (5**0.5 - 1) / 2
    for _ in range(_REFINEMENTS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if value(left) <= value(right) else (left, high)
    toll = min(seen, key=lambda toll: seen[toll])
    return toll, seen[toll]


def _starts(links: int, max_toll: float, key: Key, n: int) -> Float[Array, "n L"]:
    """Uniform draws, from the lowest tenth of the tolls and from all of them in turn."""
    widest = jnp.where(jnp.arange(n) % 2 == 0, 0.1, 1.0)[:, None] * max_toll
    return widest * jax.random.uniform(key, (n, links))


def _measures(problem, before, uniform_toll, solution: Solution) -> dict[str, tuple[float, str]]:
    _, flows = _answer(problem, solution.x)
    return dict(
        total_travel_time=(
            float(problem.total_travel_time(flows)),
            "vehicle-minutes of all trips with the tolls found, congestion included",
        ),
        total_travel_time_untolled=(
            float(problem.total_travel_time(before[1])),
            "the same without tolls",
        ),
        mean_toll=(
            float(jnp.sum(flows * solution.x) / problem.trips),
            "minutes: what a traveller pays on average, all tolls of a trip together",
        ),
        best_uniform_toll=(
            uniform_toll,
            "minutes: the best toll among those that are the same on every link",
        ),
    )


def _arrays(problem, road: RoadNetwork, solution: Solution) -> dict[str, np.ndarray]:
    _, flows = _answer(problem, solution.x)
    return dict(
        x=np.asarray(solution.x),
        policy=np.asarray(solution.policy),
        tail=road.tail + 1,
        head=road.head + 1,
        flows=np.asarray(flows),
        link_times=np.asarray(problem.link_times(flows)),
    )


def _figure(problem, road: RoadNetwork, before, solution: Solution) -> "Figure":
    from ._road_figure import RoadMap, road_maps

    _, flows = _answer(problem, solution.x)
    hours = [float(problem.total_travel_time(f)) / 60 for f in (before[1], flows)]
    panels = [
        RoadMap(f"{when}: {time:,.0f} vehicle-hours", np.asarray(charged), np.asarray(flow))
        for when, time, charged, flow in (
            ("without tolls", hours[0], 0 * road.time, before[1]),
            ("with tolls", hours[1], solution.x, flows),
        )
    ]
    return road_maps(road, panels, title=f"Tolls: {1 - hours[1] / hours[0]:.1%} less travel time")
