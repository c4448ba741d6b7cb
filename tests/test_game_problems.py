"""The zoo's zero-sum games against brute force on their rules, linear programs and simulation."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import bilevax as bx
from bilevax import problems
from bilevax.cli.entry import execute
from bilevax.problems._independent_moves import IndependentMoves, Moves

PAYOFF = [[3.0, -1.0, 0.0], [-2.0, 1.0, 0.5]]
SMALL = {
    "incentive_game": lambda: problems.incentive_game(states=2, actions=2),
    "sentinel_intruder": lambda: problems.sentinel_intruder(size=3),
    "matrix_game": lambda: problems.matrix_game(payoff=PAYOFF),
}


def value_by_linear_program(payoff):
    """The value of a matrix game: the largest v with p'payoff >= v in every column."""
    rows, columns = np.shape(payoff)
    result = linprog(
        np.r_[np.zeros(rows), -1],
        A_ub=np.c_[-np.transpose(payoff), np.ones(columns)],
        b_ub=np.zeros(columns),
        A_eq=[np.r_[np.ones(rows), 0]],
        b_eq=[1],
        bounds=[(0, None)] * rows + [(None, None)],
    )
    return -result.fun


def random_policies(seed, game):
    draw = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(draw.dirichlet(np.ones(count), game.reward.shape[0]))
        for count in game.num_actions
    )


def solution_at(zoo, x):
    """A solution as far as pictures need one: x, with the uniform policies."""
    zero = jnp.zeros(())
    policy = zoo.problem.lower(x).uniform_policy()
    return bx.Solution(x, policy, zero, zero, zero, zero, zero, bx.RESULTS.successful, {}, ())


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_game_has_starts_in_its_set_a_picture_and_both_policies(name):
    zoo = SMALL[name]()
    starts = zoo.starts(jax.random.key(0), 3)
    assert len({float(jnp.sum(x)) for x in starts}) == 3
    x = zoo.problem.project(starts[1])
    solution = solution_at(zoo, x)
    arrays = zoo.arrays(solution)
    assert arrays["policy_1"].shape == zoo.problem.lower(x).uniform_policy()[0].shape
    assert {"x", "policy_2"} <= set(arrays)
    picture = io.BytesIO()
    zoo.figure(solution).savefig(picture, dpi=30)
    assert picture.getvalue().startswith(b"\x89PNG")


def test_the_designer_of_an_incentive_game_gets_its_reward_less_what_it_pays():
    problem = problems.incentive_game(states=3, actions=2).problem
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3, 2, 2))
    game = problem.lower(jnp.asarray(x))
    policy = random_policies(1, game)
    mdps = game.induced_mdps(policy)
    evaluation = tuple(bx.evaluate(mdp, own) for mdp, own in zip(mdps, policy, strict=True))
    incentive = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(game.reward, problem.reward + incentive, rtol=1e-12)
    p, q = map(np.asarray, policy)
    joint = p[:, :, None] * q[:, None, :]
    kernel = np.asarray(problem.transition.array).reshape(3, 2, 2, 3)
    chain = np.einsum("sij,sijt->st", joint, kernel)
    gain = np.sum(joint * (np.asarray(problem.upper_reward) - 0.1 * incentive), (1, 2))
    values = np.linalg.solve(np.eye(3) - 0.9 * chain, gain)
    got = problem.upper(jnp.asarray(x), policy, evaluation)
    np.testing.assert_allclose(got, -values.mean(), rtol=1e-12)


# Sentinel and intruder


def play(size, slip, cells, actions):
    """One round by the rules: lists (probability, intruder, sentinel, intruder's gain, over)."""
    moves = [(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)]

    def after(cell, action):
        row, column = cell // size + moves[action][0], cell % size + moves[action][1]
        at_edge = not (0 <= row < size and 0 <= column < size)
        return [(1 - slip, cell if at_edge else row * size + column), (slip, cell)]

    outcomes = []
    for share_1, intruder in after(cells[0], actions[0]):
        for share_2, sentinel in after(cells[1], actions[1]):
            entered, met = intruder == size**2 - 1, intruder == sentinel
            gain = 1.0 if entered else -1.0 if met else 0.0
            outcomes.append((share_1 * share_2, intruder, sentinel, gain, entered or met))
    return outcomes


def test_sentinel_and_intruder_play_by_their_rules():
    size, slip, cells = 3, 0.2, 9
    problem = problems.sentinel_intruder(size=size, slip=slip).problem
    x = -np.random.default_rng(0).random((2, cells))
    game = problem.lower(jnp.asarray(x))
    kernel = np.zeros((81, 5, 5, 81))
    reward = np.zeros((81, 5, 5))
    live = np.ones(81, bool)
    for c, d in np.ndindex(cells, cells):
        live[c * cells + d] = c != d and c != cells - 1
        if not live[c * cells + d]:
            continue
        for a, b in np.ndindex(5, 5):
            reward[c * cells + d, a, b] = x[0, c] - x[1, d]
            for share, to, other, gain, over in play(size, slip, (c, d), (a, b)):
                reward[c * cells + d, a, b] += share * gain
                if not over:
                    kernel[c * cells + d, a, b, to * cells + other] += share
    np.testing.assert_allclose(game.reward, reward, atol=1e-14)
    v = np.random.default_rng(1).normal(size=81)
    got = game.transition.expected_next(jnp.asarray(v)).reshape(81, 5, 5)
    np.testing.assert_allclose(got, kernel @ v, atol=1e-13)
    mask = np.asarray(problem.available)
    assert mask[live].all() and not mask[~live, 1:].any() and mask[:, 0].all()
    start = np.asarray(problem.initial)
    assert start[8] == 1 and start.sum() == 1  # the intruder in cell 0, the sentinel in cell 8


@pytest.mark.slow
def test_visits_are_those_of_a_simulation():
    size, cells = 3, 9
    zoo = problems.sentinel_intruder(size=size)
    problem = zoo.problem
    x = jnp.full((2, cells), -0.5)
    game = problem.lower(x)
    policy = random_policies(3, game)
    mdp = game.induced_mdps(policy)[0]
    evaluation = bx.evaluate(mdp, policy[0])
    p, q = map(np.asarray, policy)
    mass = {(0, cells - 1): 1.0}
    visits = np.zeros((2, cells))
    for t in range(600):
        following: dict[tuple[int, int], float] = {}
        for (c, d), share in mass.items():
            visits[0, c] += 0.95**t * share
            visits[1, d] += 0.95**t * share
            for a, b in np.ndindex(5, 5):
                both = share * p[c * cells + d, a] * q[c * cells + d, b]
                for chance, to, other, _, over in play(size, 0.1, (c, d), (a, b)):
                    if not over:
                        following[to, other] = following.get((to, other), 0.0) + both * chance
        mass = {cell: share for cell, share in following.items() if share > 1e-12}
    np.testing.assert_allclose(problem.visits((evaluation, evaluation)), visits, atol=1e-8)
    upper = problem.upper(x, policy, (evaluation, evaluation))
    blocks = visits[:, [2, 6]].sum()  # top right and bottom left
    np.testing.assert_allclose(upper, blocks + 0.01 * 0.5 * 18, atol=1e-8)


@pytest.mark.slow
def test_independent_moves_are_the_product_of_two_kernels():
    draw = np.random.default_rng(5)
    first, second = np.zeros((3, 2, 3)), np.zeros((4, 3, 4))
    for kernel in (first, second):
        for c, a in np.ndindex(kernel.shape[:2]):
            reach = [c, (c + 1) % kernel.shape[0]]
            kernel[c, a, reach] = draw.dirichlet(np.ones(2))
    live = np.ones(12)
    live[[3, 7]] = 0
    moves = IndependentMoves(Moves.of(first), Moves.of(second), jnp.asarray(live))
    joint = np.einsum("cae,dbf->cdabef", first, second).reshape(12, 6, 12)
    dense = bx.DenseTransition(joint * live * live[:, None, None])
    v = jnp.asarray(draw.normal(size=12))
    p, q = (jnp.asarray(draw.dirichlet(np.ones(n), 12)) for n in (2, 3))
    both = (p[:, :, None] * q[:, None, :]).reshape(12, 6)
    np.testing.assert_allclose(moves.expected_next(v), dense.expected_next(v))
    np.testing.assert_allclose(moves.under(both).dense(), dense.under(both).dense(), atol=1e-15)
    for player, own, others in ((0, p, q), (1, q, p)):
        got = moves.averaged((2, 3), player, others)
        wanted = dense.averaged((2, 3), player, others)
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got.expected_next(v), wanted.expected_next(v))
        chains = got.under(own), wanted.under(own)
        for product in (lambda chain: chain.apply(v), lambda chain: chain.apply_transposed(v)):
            np.testing.assert_allclose(*map(product, chains), atol=1e-14)


# Matrix games


@pytest.mark.slow
def test_the_value_of_a_matrix_game_is_that_of_the_linear_program():
    zoo = problems.matrix_game(payoff=PAYOFF)
    x = jnp.asarray([[0.1, 0.2, -0.1], [0.0, 0.3, 0.2]])
    measures = zoo.measures(solution_at(zoo, x))
    for name, matrix in (("value", PAYOFF), ("value_after", np.asarray(PAYOFF) + np.asarray(x))):
        assert measures[name][0] == pytest.approx(value_by_linear_program(matrix), abs=1e-6)


@pytest.mark.parametrize(
    "payoff, message",
    [
        ([[1.0, 2.0], [3.0]], "no matrix of numbers"),
        ([["a", "b"]], "no matrix of numbers"),
        ([1.0, 2.0], r"shape \(2,\)"),
        ([[1.0, float("nan")]], r"not finite at \[0, 1\]"),
    ],
)
def test_a_payoff_that_is_no_matrix_of_numbers_is_refused(payoff, message):
    with pytest.raises(ValueError, match=message):
        problems.matrix_game(payoff=payoff)


@pytest.mark.slow
def test_a_matrix_game_is_solved_on_the_command_line(capsys, tmp_path):
    payoff = "[[0,-1,1],[1,0,-1],[-1,1,0]]"
    command = ["solve", "matrix-game", "--payoff", payoff, "--starts", "1", "--steps", "60"]
    folder = tmp_path / "game"
    assert execute([*command, "--json", "--quiet", "--out", str(folder)]) == 0
    line = json.loads(capsys.readouterr().out)
    assert {"gap", "value", "value_after", "upper_value_at_best_response"} <= set(line)
    assert line["value"] == pytest.approx(0, abs=1e-6) and line["gap"] < 1e-3
    with np.load(folder / "solution.npz") as arrays:
        first, second, x = (arrays[name] for name in ("policy_1", "policy_2", "x"))
    assert np.abs(x).max() <= 0.5
    got = first[0] @ (np.asarray(json.loads(payoff)) + x) @ second[0] - 0.5 * np.sum(x**2)
    assert got == pytest.approx(line["upper_value"])
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_faulty_games_on_the_command_line_are_refused_in_one_sentence(capsys):
    for arguments, words in (
        (["matrix-game", "--payoff", "[[1,2],[3]]"], "the rows have [2, 1] entries"),
        (["matrix-game", "--payoff", "[[1,true]]"], "the entry True is not a number"),
        (["matrix-game", "--solver", "pbrl-bellman"], "the lower level is a game"),
        (["stackelberg", "--payoff", "[[1]]"], "it belongs to matrix-game"),
    ):
        assert execute(["solve", *arguments, "--quiet"]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
