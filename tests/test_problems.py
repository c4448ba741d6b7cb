"""The zoo against published values, linear programs and independent implementations."""

import io
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linprog

import bilevax as bx
from bilevax import problems

SMALL = {
    "stackelberg": lambda: problems.stackelberg(states=3, leader_actions=2, follower_actions=3),
    "four_rooms": problems.four_rooms,
    "discrete_toy": problems.discrete_toy,
    "bimatrix": problems.bimatrix,
    "random_reward": lambda: problems.random_reward(states=4, actions=2, dimension=3),
    "reward_design": problems.reward_design,
    "preferences": problems.preferences,
    "cliff": lambda: problems.reward_design(env="CliffWalking-v1", avoid=[25], tau=0.1),
    "no map": lambda: problems.reward_design(
        env=SimpleNamespace(
            P={
                0: {0: [(1.0, 1, 0.0, False)], 1: [(1.0, 0, 0.0, False)]},
                1: {0: [(0.5, 0, 1.0, True), (0.5, 0, 1.0, False)], 1: [(1.0, 0, 0.0, True)]},
            }
        ),
        avoid=[1],
    ),
}


@eqx.filter_jit
def value_at_best_response(problem, x):
    """(F(x), pi*_x), the lower level solved to rounding."""
    mdp = problem.lower(x)
    policy = bx.best_responses(mdp).policy
    return problem.upper(x, policy, bx.evaluate(mdp, policy)), policy


@eqx.filter_jit
def answers(problem, solver, steps, x0):
    """F at the answers from many starts."""
    solve = lambda x: bx.solve(problem, solver, x, max_steps=steps).best_response_value
    return jax.vmap(solve)(x0)


def unsolved(problem, x):
    """A solution as far as pictures need one: x, with the uniform policy."""
    policy, zero = problem.lower(x).uniform_policy(), jnp.zeros(())
    return bx.Solution(x, policy, zero, zero, zero, zero, zero, bx.RESULTS.successful, {}, ())


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_problem_has_a_start_a_picture_and_arrays(name):
    zoo_problem = SMALL[name]()
    x0 = zoo_problem.starts(jax.random.key(0), 3)
    assert x0.shape[0] == 3
    assert len({float(jnp.sum(x)) for x in x0}) == 3
    x = zoo_problem.problem.project(x0[1])
    solution = unsolved(zoo_problem.problem, x)
    picture = io.BytesIO()
    zoo_problem.figure(solution).savefig(picture, dpi=30)
    assert picture.getvalue().startswith(b"\x89PNG")
    arrays = zoo_problem.arrays(solution)
    assert {"x", "policy"} <= set(arrays)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


@pytest.mark.parametrize(
    "name", ["stackelberg", "four_rooms", "random_reward", "reward_design", "preferences"]
)
def test_problems_hand_their_arrays_to_the_compiler(name):
    zoo_problem = SMALL[name]()
    # Closed-over arrays would be constants of the compiled function: slow to compile, never shared.
    x = zoo_problem.starts(jax.random.key(0), 1)[0]

    def f(problem, x):
        policy = problem.lower(x).uniform_policy()
        return problem.upper(x, policy, bx.evaluate(problem.lower(x), policy))

    closed = jax.make_jaxpr(f)(zoo_problem.problem, x)
    assert max((np.size(constant) for constant in closed.consts), default=0) < 100


@pytest.mark.slow
def test_upper_is_minus_the_return_of_the_upper_reward():
    for name in ("four_rooms", "discrete_toy", "reward_design"):
        zoo = SMALL[name]()
        x = zoo.starts(jax.random.key(1), 2)[1]
        policy = zoo.problem.lower(x).uniform_policy()
        evaluation = bx.evaluate(zoo.problem.lower(x), policy)
        value = jnp.sum(evaluation.state_action_occupancy * zoo.problem.upper_reward(x))
        upper = zoo.problem.upper(x, policy, evaluation)
        np.testing.assert_allclose(zoo.natural_value(upper), value, rtol=1e-12)


@pytest.mark.slow
def test_random_games_have_the_law_of_their_definition_and_their_own_seed():
    game = problems.stackelberg(states=40, seed=1).problem
    np.testing.assert_allclose(game.kernel.sum(-1), 1)
    for reward in (game.leader_reward, game.follower_reward):
        assert 0 <= reward.min() < 0.01 < 0.99 < reward.max() <= 1
        assert abs(reward.mean() - 0.5) < 0.03
    assert jnp.all(game.kernel == problems.stackelberg(states=40, seed=1).problem.kernel)
    assert not jnp.all(game.kernel == problems.stackelberg(states=40, seed=2).problem.kernel)


def test_the_steps_of_a_random_game_shrink_over_the_last_fifth_of_a_run():
    zoo = problems.stackelberg(states=2, leader_actions=2, follower_actions=2)
    assert zoo.update(zoo.steps) is zoo.solver.update
    update: Any = zoo.update(10)
    x = jnp.zeros(1)

    def step(state, _):
        move, state = update.optimizer.update(jnp.ones(1), state, x)
        return state, -move[0]  # under a constant gradient Adam moves by its rate

    _, moves = jax.lax.scan(step, update.optimizer.init(x), length=12)
    expected = [0.05] * 9 + [0.02525] + [0.0005] * 2
    np.testing.assert_allclose(moves, expected, rtol=1e-6)


# Four rooms


def four_rooms_value(w, tau, beta):
    """F(w) on the 13 x 13 map itself: walls, moves and values as pictures, no lists of states."""
    rooms = [
        "xxxxxxxxxxxxx",
        "x     x     x",
        "x     x     x",
        "x           x",
        "x     x     x",
        "x     x     x",
        "xx xxxx     x",
        "x     xxx xxx",
        "x     x     x",
        "x     x     x",
        "x           x",
        "x     x     x",
        "xxxxxxxxxxxxx",
    ]
    free = np.array([[c == " " for c in line] for line in rooms])
    incentive = np.zeros(free.shape)
    incentive[free] = -0.2 * (np.exp(w) / np.exp(w).sum())[:-1]
    steps = [(-1, 0), (0, 1), (1, 0), (0, -1)]

    def after(v):  # the value after each direction of movement, [4, 13, 13]
        moved = [np.roll(v, (-down, -right), (0, 1)) for down, right in steps]
        open_ = [np.roll(free, (-down, -right), (0, 1)) for down, right in steps]
        return np.stack([np.where(o, m, v) for m, o in zip(moved, open_, strict=True)])

    slip = 0.44 / 3
    mix = slip + (0.56 - slip) * np.eye(4)
    total = 0.0
    for goal in ((1, 9), (11, 11)):
        v = np.zeros(free.shape)
        upper = np.zeros(free.shape)
        for sweeps, best in ((4000, True), (4000, False)):
            for _ in range(sweeps):
                if best:
                    q = incentive + 0.99 * np.tensordot(mix, after(v), 1)
                    q[:, goal[0], goal[1]] = 1.0
                    largest = q.max(0)
                    v = largest + tau * np.log(np.exp((q - largest) / tau).sum(0))
                    policy = np.exp((q - v) / tau)
                else:
                    gain = np.zeros(free.shape)
                    gain[8, 4] = 1.0
                    q = gain + 0.99 * np.tensordot(mix, after(upper), 1)
                    q[:, goal[0], goal[1]] = beta * incentive.sum()
                    upper = (policy * q).sum(0)
        total += 0.5 * upper[4, 1]
    return total


@pytest.mark.slow
def test_four_rooms_is_the_game_played_on_its_map():
    w = np.random.default_rng(0).normal(size=105)
    zoo = problems.four_rooms(tau=0.02, beta=3.0)
    assert zoo.problem.transition.shape == (104, 4)
    value, _ = value_at_best_response(zoo.problem, jnp.asarray(w))
    np.testing.assert_allclose(zoo.natural_value(value), four_rooms_value(w, 0.02, 3.0), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("tau", "beta", "exact"), [(0.001, 1.0, 0.583), (0.003, 5.0, 0.343)])
def test_hypergradient_ascent_in_four_rooms_ends_at_the_value_known_from_one_start(
    tau, beta, exact
):
    zoo = problems.four_rooms(tau=tau, beta=beta)
    x0 = zoo.starts(jax.random.key(0), 1)[0]
    solver = bx.ImplicitGradient(optax.adam(0.05))
    solution = bx.solve(zoo.problem, solver, x0, max_steps=1500)
    assert float(zoo.natural_value(solution.best_response_value)) == pytest.approx(exact, abs=2e-3)


@pytest.mark.slow
def test_the_penalty_method_passes_every_published_value_in_four_rooms():
    zoo = problems.four_rooms(tau=0.005, beta=1.0)
    x0 = zoo.starts(jax.random.key(0), 1)[0]
    solution = bx.solve(zoo.problem, zoo.solver, x0, max_steps=zoo.steps)
    assert float(zoo.natural_value(solution.best_response_value)) > 1.46 > max(zoo.known.values())
    assert float(solution.gap) < 1e-3


# DiscreteToy


def toy_logits(p):
    return jnp.zeros((3, 2)).at[1].set(jnp.log(jnp.asarray([p, 1 - p])))


@pytest.mark.parametrize(
    ("p", "for_ever", "over_150"),
    [(0.8335, 34.993, None), (0.835, None, 27.32), (1 - 1e-13, 33.653, 26.22), (0.5, 0.617, 0.48)],
)
def test_discrete_toy_pays_what_is_known_for_each_commitment(p, for_ever, over_150):
    game = problems.discrete_toy().problem
    value, policy = value_at_best_response(game, toy_logits(p))
    if for_ever is not None:
        assert -value == pytest.approx(for_ever, abs=6e-4)
    if over_150 is not None:
        truncated = problems.return_over_steps(game, toy_logits(p), policy)
        assert float(truncated) == pytest.approx(over_150, abs=6e-3)


def test_a_leader_who_always_blocks_is_left_alone():
    value, _ = value_at_best_response(problems.discrete_toy().problem, toy_logits(1e-13))
    assert -value < 1e-4


def test_return_over_many_steps_tends_to_the_return_for_ever():
    game = problems.discrete_toy().problem
    value, policy = value_at_best_response(game, toy_logits(0.8))
    long = problems.return_over_steps(game, toy_logits(0.8), policy, 4000)
    np.testing.assert_allclose(long, -value, rtol=1e-12)
    first = problems.return_over_steps(game, toy_logits(0.8), policy, 1)
    # In S the leader's action is irrelevant, and only going to A pays.
    np.testing.assert_allclose(first, game.follower_policy(policy)[0].mean(0)[1], rtol=1e-12)


@pytest.mark.slow
def test_the_penalty_method_finds_the_optimum_of_discrete_toy():
    zoo = problems.discrete_toy()
    x0 = zoo.starts(jax.random.key(0), 4)
    best = jnp.max(zoo.natural_value(answers(zoo.problem, zoo.solver, zoo.steps, x0)))
    assert float(best) == pytest.approx(34.993, abs=5e-3)


# Bimatrix games


def optimal_commitment(leader, follower):
    """The leader's value by one linear program per follower action (Conitzer and Sandholm 2006)."""
    leader, follower = np.asarray(leader, float), np.asarray(follower, float)
    values = []
    for answer in range(leader.shape[1]):
        program: Any = linprog(
            -leader[:, answer],
            A_ub=(follower - follower[:, [answer]]).T,
            b_ub=np.zeros(leader.shape[1]),
            A_eq=np.ones((1, leader.shape[0])),
            b_eq=[1.0],
        )
        values.append(-program.fun if program.success else -np.inf)
    return max(values)


@pytest.mark.parametrize("game", [1, 3, 4])
def test_the_known_values_of_bimatrix_games_are_those_of_linear_programs(game):
    zoo = problems.bimatrix(game=game)
    leader, follower = zoo.problem.leader_reward[0], zoo.problem.follower_reward[0]
    (known,) = zoo.known.values()
    assert optimal_commitment(leader, follower) == pytest.approx(known)


@pytest.mark.slow
@pytest.mark.parametrize("game", [1, 3, 4])
def test_the_penalty_method_comes_close_to_the_optimal_commitment(game):
    zoo = problems.bimatrix(game=game)
    x0 = zoo.starts(jax.random.key(0), zoo.default_starts)
    best = float(jnp.max(zoo.natural_value(answers(zoo.problem, zoo.solver, zoo.steps, x0))))
    (known,) = zoo.known.values()
    assert known - 0.05 < best <= known + 1e-9


def test_ones_own_matrices_make_a_bimatrix_game():
    leader, follower = np.eye(2), np.asarray([[0.0, 1.0], [1.0, 0.0]])
    zoo = problems.bimatrix(leader=leader, follower=follower, tau=0.01)
    # The follower avoids the leader: at x = 0 every outcome is equally likely.
    value, _ = value_at_best_response(zoo.problem, jnp.zeros((1, 2)))
    np.testing.assert_allclose(-value, 0.5)
    assert zoo.known == {}
    with pytest.raises(ValueError, match="only one payoff matrix"):
        problems.bimatrix(leader=leader)
    with pytest.raises(ValueError, match="game is 2"):
        problems.bimatrix(game=2)


# The synthetic problem of M-SoBiRL


def test_the_synthetic_problem_has_its_trivial_solution():
    zoo = problems.random_reward()
    value, policy = value_at_best_response(zoo.problem, jnp.zeros(100))
    np.testing.assert_allclose(policy, 1 / 5)
    assert value == pytest.approx(1.0) == next(iter(zoo.known.values()))
    for x in zoo.starts(jax.random.key(0), 4):
        assert value_at_best_response(zoo.problem, x)[0] > 1.0


# Reward design


def test_reward_design_starts_and_moves_within_its_budget():
    zoo = problems.reward_design(budget=0.5)
    for x in 10 * zoo.starts(jax.random.key(0), 2):
        projected = zoo.problem.project(x)
        assert float(jnp.sum(jnp.abs(projected))) <= 0.5 + 1e-12
    within = jnp.zeros(16).at[3].set(0.4)
    np.testing.assert_allclose(zoo.problem.project(within), within)
    without, bound = zoo.known.values()
    assert without < bound
    found = unsolved(zoo.problem, within)
    measures = {name: value for name, (value, _) in zoo.measures(found).items()}
    lower = zoo.problem.lower(within)
    upper = zoo.problem.upper(within, found.policy, bx.evaluate(lower, found.policy))
    paid = measures["environment_return"] - measures["avoided_visits"]  # a visit costs 1
    assert np.isclose(paid, -upper, rtol=1e-12)
    paid = measures["environment_return_before"] - measures["avoided_visits_before"]
    assert np.isclose(paid, without, rtol=1e-6)


@pytest.mark.slow
def test_reward_design_leads_the_agent_round_the_other_side_of_the_lake():
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    zoo = problems.reward_design(env=env, budget=0.7)
    # Many starts end where the agent stays away from the goal altogether.
    starts = zoo.starts(jax.random.key(0), 8)
    solutions = [bx.solve(zoo.problem, zoo.solver, x0, max_steps=600) for x0 in starts]
    solution = min(solutions, key=lambda s: float(s.best_response_value))
    assert float(jnp.sum(jnp.abs(solution.x))) <= 0.7 + 1e-9
    value = float(zoo.natural_value(solution.best_response_value))
    assert zoo.known["without any change"] < value <= zoo.known["no incentive can exceed"] + 1e-9
    # The six moves round the other side of the lake: the goal's 1 is collected on the sixth.
    assert value == pytest.approx(0.99**5, abs=5e-3)


def test_reward_design_refuses_states_that_do_not_exist():
    with pytest.raises(ValueError, match=r"avoid is \[16\]; give at least one state"):
        problems.reward_design(avoid=[16])
    with pytest.raises(ValueError, match="budget is 0"):
        problems.reward_design(budget=0.0)
