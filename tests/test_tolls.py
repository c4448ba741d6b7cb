"""Toll design against recursive logit written out in NumPy, and what it says of bad input."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevax as bx
from bilevax import problems
from bilevax.cli.entry import execute
from bilevax.problems import _recursive_logit, _tolls

# (from, to, free-flow time, capacity), on seven nodes of which the first three are zones. Zones 1
# and 2 may not be driven through, though a short cut leads through 2; one road has two lanes.
LINKS = [
    *((1, 4, 2.0, 40), (4, 1, 2.0, 40), (1, 5, 3.0, 60), (5, 1, 3.0, 60), (2, 4, 1.0, 30)),
    *((4, 2, 1.0, 30), (2, 7, 1.0, 30), (7, 2, 1.0, 30), (3, 7, 2.0, 50), (7, 3, 2.0, 50)),
    *((4, 6, 2.0, 20), (6, 4, 2.0, 20), (5, 6, 1.5, 30), (6, 5, 1.5, 30), (6, 7, 2.5, 40)),
    *((7, 6, 2.5, 40), (5, 7, 4.0, 40), (5, 7, 3.0, 20), (7, 5, 3.0, 30), (3, 6, 3.0, 20)),
]
TRIPS = {(1, 2): 20.0, (1, 3): 50.0, (2, 1): 10.0, (2, 3): 30.0, (3, 1): 40.0, (1, 1): 7.0}
NETWORKS = Path(os.environ.get("BILEVAX_ROAD_NETWORKS", "road-networks"))


def write(folder, links=LINKS, trips=TRIPS, zones=3, nodes=7, first=3) -> dict[str, Any]:
    """The three files of a network."""
    head = f"<NUMBER OF ZONES> {zones}\n"
    end = "<END OF METADATA>\n"
    rows = [f"{a} {b} {capacity} 1 {time} 0.15 4 0 0 1 ;\n" for a, b, time, capacity in links]
    counts = f"<NUMBER OF NODES> {nodes}\n<FIRST THRU NODE> {first}\n"
    counts += f"<NUMBER OF LINKS> {len(links)}\n"
    (folder / "net.tntp").write_text(head + counts + end + "".join(rows))
    rows = [f"Origin {o}\n{d} : {number};\n" for (o, d), number in trips.items()]
    (folder / "trips.tntp").write_text(head + end + "".join(rows))
    rows = [f"{node} {node % 3} {node // 3} ;\n" for node in range(1, nodes + 1)]
    (folder / "node.tntp").write_text("Node X Y ;\n" + "".join(rows))
    return dict(network=str(folder / "net.tntp"), trips=str(folder / "trips.tntp"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def zoo(files):
    nodes = files["network"].replace("net.", "node.")
    return problems.tolls(**files, nodes=nodes, max_toll=6.0, theta=1.0)


@pytest.fixture(scope="module")
def some_tolls():
    return jnp.asarray(np.random.default_rng(0).uniform(0.1, 5, len(LINKS)))


def solution_at(x):
    """A solution as far as measures and pictures need one: x, and no policy."""
    zero = jnp.zeros(())
    return bx.Solution(x, zero, zero, zero, zero, zero, zero, bx.RESULTS.successful, {}, ())


def recursive_logit(road, x, theta):
    """Flows on links by one linear system per destination, for z = exp(V/theta)."""
    demand = road.demand * ~np.eye(road.num_zones, dtype=bool)
    flows = np.zeros(road.num_links)
    for d in np.flatnonzero(demand.sum(0)):
        usable = (road.tail != d) & ((road.head >= road.first_through) | (road.head == d))
        weight = np.where(usable, np.exp(-(road.time + x) / theta), 0)
        matrix = np.zeros((road.num_nodes, road.num_nodes))
        np.add.at(matrix, (road.tail, road.head), weight)
        arrived = np.arange(road.num_nodes) == d
        z = np.linalg.solve(np.eye(road.num_nodes) - matrix, arrived.astype(float))
        # Who is at a node passes along a link with probability weight z(head) / z(tail).
        chance = np.divide(weight * z[road.head], z[road.tail], where=weight > 0, out=0 * weight)
        kernel = np.zeros_like(matrix)
        np.add.at(kernel, (road.tail, road.head), chance)
        start = np.zeros(road.num_nodes)
        start[: road.num_zones] = demand[:, d]
        flows += chance * np.linalg.solve(np.eye(road.num_nodes) - kernel.T, start)[road.tail]
    return flows


def mean_time(road, flows):
    """The mean BPR travel time of a trip between different zones."""
    times = road.time * (1 + road.b * (flows / road.capacity) ** road.power)
    return np.sum(flows * times) / np.sum(road.demand * ~np.eye(road.num_zones, dtype=bool))


@pytest.fixture(scope="module")
def flows(zoo, some_tolls):
    """Flows at the best response to some tolls."""
    return zoo.arrays(solution_at(some_tolls))["flows"]


def test_flows_and_travel_times_are_those_of_recursive_logit(zoo, files, some_tolls, flows):
    road = problems.read_network(**files)
    expected = recursive_logit(road, np.asarray(some_tolls), 1.0)
    np.testing.assert_allclose(flows, expected, rtol=1e-9, atol=1e-9)
    measures = zoo.measures(solution_at(some_tolls))
    total, untolled, paid, uniform = (value for value, _ in measures.values())
    assert list(measures) == [
        *("total_travel_time", "total_travel_time_untolled", "mean_toll", "best_uniform_toll"),
    ]
    assert paid == pytest.approx(expected @ np.asarray(some_tolls) / 150, rel=1e-9)
    assert total == pytest.approx(150 * mean_time(road, expected), rel=1e-9)
    without = mean_time(road, recursive_logit(road, 0.0, 1.0))
    assert untolled == pytest.approx(150 * without, rel=1e-9)
    assert zoo.known["without tolls"] == pytest.approx(without, rel=1e-9)
    grid = np.linspace(0, 6, 601)
    values = [mean_time(road, recursive_logit(road, toll, 1.0)) for toll in grid]
    assert uniform == pytest.approx(grid[np.argmin(values)], abs=0.02)
    _, best = zoo.known.values()
    assert best == pytest.approx(min(values), rel=1e-6)


def test_demand_is_conserved_and_zones_are_not_driven_through(files, flows):
    road = problems.read_network(**files)
    demand = road.demand * ~np.eye(3, dtype=bool)
    arriving = np.bincount(road.head, flows, 7)
    leaving = np.bincount(road.tail, flows, 7)
    own = np.zeros(7)
    own[:3] = demand.sum(1) - demand.sum(0)
    np.testing.assert_allclose(leaving - arriving, own, atol=1e-9 * demand.sum())
    np.testing.assert_allclose(arriving[:2], demand.sum(0)[:2], rtol=1e-9)
    assert arriving[2] > demand.sum(0)[2] + 1e-4, "zone 3 may be driven through"


def test_the_gradient_of_the_travel_time_in_the_tolls_is_that_of_differences(
    zoo, files, some_tolls
):
    road, x = problems.read_network(**files), np.asarray(some_tolls)
    exact, oracle, key = bx.Exact(zoo.problem), bx.PolicyIteration(), jax.random.key(0)

    @jax.jit
    def gradient(x):
        _, memory = exact.init(oracle, x, key)
        terms, gradient, _, _ = exact.hypergradient(oracle, x, memory, key)
        return terms.upper, gradient

    value, slope = gradient(some_tolls)
    at = lambda toll: mean_time(road, recursive_logit(road, toll, 1.0))
    assert value == pytest.approx(at(x), rel=1e-9)
    step = 1e-5
    differences = [(at(x + step * e) - at(x - step * e)) / (2 * step) for e in np.eye(x.size)]
    np.testing.assert_allclose(slope, differences, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_systems_without_matrices_give_the_same_flows(zoo, files, some_tolls, flows, monkeypatch):
    monkeypatch.setattr(_recursive_logit, "_MOST_ENTRIES", 0)
    road = problems.read_network(**files)
    free: Any = _recursive_logit.travellers(road, 1.0).mdp
    assert free.transition.matrix_free and not zoo.problem.mdp.transition.matrix_free
    reward = zoo.problem.lower(some_tolls).reward
    tolled = bx.MDP(
        reward,
        free.transition,
        discount=1.0,
        initial=free.initial,
        tau=1.0,
        available=free.available,
    )
    oracle = bx.PolicyIteration()
    assert (
        bx.Exact(bx.BilevelProblem(lambda *_: jnp.zeros(()), lambda x: tolled))
        .init(oracle, jnp.zeros(1), jax.random.key(0))[1]
        .inverses
        is None
    )
    evaluation = bx.evaluate(tolled, bx.best_responses(tolled).policy)
    assert evaluation.system.factor is None and evaluation.system.inverse is None
    np.testing.assert_allclose(zoo.problem.link_flows(evaluation), flows, rtol=1e-9, atol=1e-9)


def test_revenue_counts_as_much_as_its_weight(zoo, files, some_tolls):
    worth = eqx.tree_at(lambda p: p.revenue_weight, zoo.problem, jnp.asarray(0.5))

    @jax.jit
    def values(x):
        mdp = worth.lower(x)
        evaluation = bx.evaluate(mdp, mdp.uniform_policy())
        both = (problem.upper(x, evaluation.policy, evaluation) for problem in (zoo.problem, worth))
        return *both, worth.link_flows(evaluation)

    without, with_revenue, flows = values(some_tolls)
    np.testing.assert_allclose(without - with_revenue, 0.5 * flows @ some_tolls / 150, rtol=1e-9)


def test_travel_times_are_finite_with_their_slopes_on_unused_links(zoo):
    times = lambda flows: zoo.problem.link_times(flows)
    value, slope = jax.jit(lambda f: (times(f), jax.jacobian(times)(f)))(jnp.zeros(len(LINKS)))
    assert not np.any(slope)
    np.testing.assert_array_equal(value, zoo.problem.time)


def test_pictures_show_the_network_before_and_after(zoo, files, some_tolls):
    solution = solution_at(some_tolls)
    for made in (zoo, problems.tolls(**files, max_toll=6.0, theta=1.0)):
        figure = made.figure(solution)
        titles = [ax.get_title() for ax in figure.axes[:2]]
        assert titles[0].startswith("without tolls: ") and titles[1].startswith("with tolls: ")
        picture = io.BytesIO()
        figure.savefig(picture, dpi=30)
        assert picture.getvalue().startswith(b"\x89PNG")


def test_starts_are_tolls_within_their_limits(zoo):
    starts = zoo.starts(jax.random.key(0), 4)
    assert starts.shape == (4, len(LINKS)) and 0 <= starts.min() < starts.max() <= 6
    assert starts[0].max() <= 0.6 < starts[1].max()
    np.testing.assert_array_equal(zoo.problem.project(jnp.asarray([-1.0, 2, 9])), [0, 2, 6])


def test_a_theta_that_makes_driving_in_circles_pay_is_refused_with_one_that_works(files):
    with pytest.raises(ValueError, match=r"at theta = 9 travelling to destination 1 .and to") as e:
        problems.tolls(**files, theta=9.0)
    road = problems.read_network(**files)
    found = re.search(r"theta = (\S+) works", str(e.value))
    assert found is not None
    works = float(found[1])
    assert max(spectral_radii(road, works)) < 1 <= max(spectral_radii(road, works + 0.1))


def spectral_radii(road, theta):
    """Of exp(-cost/theta) on the links that no trip to the destination ends on or passes."""
    for d in np.flatnonzero(road.demand.sum(0)):
        inner = (road.tail != d) & (road.head != d) & (road.head >= road.first_through)
        matrix = np.zeros((road.num_nodes, road.num_nodes))
        np.add.at(matrix, (road.tail[inner], road.head[inner]), np.exp(-road.time[inner] / theta))
        yield np.max(np.abs(np.linalg.eigvals(matrix)))


def test_circles_that_cost_nothing_are_refused_at_every_theta(tmp_path):
    free = [link for link in LINKS if {4, 6} != set(link[:2])] + [(4, 6, 0, 20), (6, 4, 0, 20)]
    with pytest.raises(ValueError, match="an infinite value at every theta: links without any"):
        problems.tolls(**write(tmp_path, free))


def test_a_destination_that_cannot_be_reached_is_named(tmp_path):
    # Through zone 2 alone, which may not be driven through.
    links = [link for link in LINKS if link[1] not in (3, 7) or link[0] in (2, 3)]
    with pytest.raises(ValueError, match="destination 3 cannot be reached from zone 1, where 50"):
        problems.tolls(**write(tmp_path, [*links, (7, 3, 2.0, 50)]))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(max_toll=-1.0), "tolls: max_toll is -1.0; give a positive number"),
        (dict(max_toll=np.inf), "tolls: max_toll is inf"),
        (dict(theta=0.0), "tolls: theta is 0.0; give a positive number"),
        (dict(revenue_weight=np.nan), "tolls: revenue_weight is nan; give a finite number"),
    ],
)
def test_options_that_make_no_sense_are_refused(files, options, message):
    with pytest.raises(ValueError, match=message):
        problems.tolls(**files, **options)


def test_a_network_without_trips_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there are no trips between different zones"):
        problems.tolls(**write(tmp_path, trips={(1, 1): 3.0}))


@pytest.mark.slow
def test_the_command_line_solves_and_reports_total_travel_times(files, tmp_path, capsys):
    given = ["--network", files["network"], "--trips", files["trips"]]
    quick = ["--theta", "1", "--max-toll", "6", "--starts", "1", "--steps", "20", "--quiet"]
    folder = str(tmp_path / "run")
    code = execute(["solve", "tolls", *given, *quick, "--gap-tol", "10", "--json", "--out", folder])
    line = json.loads(capsys.readouterr().out)
    assert code == 0 and line["result"] == "successful"
    assert {"total_travel_time", "total_travel_time_untolled", "best_uniform_toll"} < set(line)
    assert line["total_travel_time"] == pytest.approx(150 * line["upper_value_at_best_response"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Total travel time untolled" in page and "without tolls: " in page


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"--trips": None}, "tolls needs --network and --trips."),
        ({"--max-toll": "-2"}, "tolls: max_toll is -2.0; give a positive number."),
        ({"--tau": "1"}, "--tau does not apply to tolls"),
        ({"--network": "no.tntp"}, "no.tntp cannot be read: No such file"),
        ({"--theta": "9"}, "works for every destination."),
    ],
)
def test_the_command_line_says_in_one_line_what_is_wrong(files, capsys, changes, message):
    options = {"--network": files["network"], "--trips": files["trips"]} | changes
    given = [part for pair in options.items() if pair[1] is not None for part in pair]
    assert execute(["solve", "tolls", *given]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.slow
def test_the_penalty_method_beats_every_uniform_toll(zoo):
    starts = zoo.starts(jax.random.key(0), 2)
    run = bx.run(zoo.problem, zoo.solver, starts, max_steps=zoo.steps)
    assert run.best.gap < 1e-3
    assert run.best_response_values.max() < min(zoo.known.values()) - 0.05
    polished = bx.polish(zoo.problem, run.best)
    change = float(polished.best_response_value - run.best.best_response_value)
    assert -0.01 < change <= 1e-9


def grid(side, zones) -> dict[str, Any]:
    """A square grid of two-way streets whose first nodes, spread over it, send trips around."""
    draw = np.random.default_rng(0)
    number = draw.permutation(side**2).reshape(side, side) + 1
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    roads = [road for a, b in pairs for road in zip(a.ravel(), b.ravel(), strict=True)]
    links = [(a, b, draw.uniform(3, 8), 500) for pair in roads for a, b in (pair, pair[::-1])]
    ends = draw.integers(1, zones + 1, (20 * zones, 2))
    trips = {(int(o), int(d)): draw.uniform(1, 20) for o, d in ends if o != d}
    return dict(links=links, trips=trips, zones=zones, nodes=side**2, first=1)


@pytest.mark.slow
def test_a_thousand_nodes_and_fifty_destinations_are_solved_without_matrices(tmp_path):
    road = problems.read_network(**write(tmp_path, **grid(32, 50)))
    problem = _tolls._toll_design(road, 10.0, 2.0, 0.0)
    transition: Any = problem.mdp.transition
    assert transition.matrix_free
    assert transition.next_state.ndim == 3, "one graph for all destinations"
    x = np.random.default_rng(1).uniform(0, 1, road.num_links)
    _, flows = _tolls._answer(problem, jnp.asarray(x))
    np.testing.assert_allclose(flows, recursive_logit(road, x, 2.0), rtol=1e-7, atol=1e-9)
    demand, nodes = road.demand, road.num_nodes
    own = np.zeros(nodes)
    own[:50] = demand.sum(1) - demand.sum(0)
    balance = np.bincount(road.tail, flows, nodes) - np.bincount(road.head, flows, nodes)
    np.testing.assert_allclose(balance, own, atol=1e-9 * demand.sum())


@pytest.mark.skipif(not NETWORKS.is_dir(), reason="BILEVAX_ROAD_NETWORKS names no folder")
def test_sioux_falls_has_its_known_size_and_limits_of_theta():
    paths = (NETWORKS / f"SiouxFalls_{part}.tntp" for part in ("net", "trips", "node"))
    road = problems.read_network(*paths)
    assert (road.num_nodes, road.num_links, road.num_zones) == (24, 76, 24)
    assert road.demand.sum() == 360600
    with pytest.raises(ValueError, match=r"destination 1 .and to 18 others.* theta = 2\.8 works"):
        _recursive_logit.travellers(road, 3.0)
    assert max(spectral_radii(road, 2.0)) == pytest.approx(0.66, abs=0.01)
