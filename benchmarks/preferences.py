"""Alternation and PBRL on the corridor of preferences, and a survey of all corridors like it.

    python benchmarks/preferences.py [--starts 24] [--figure docs/images/preferences.svg]

Every method starts from the same x: the zoo's (in turn N(0, .1^2) and N(0, 1)), then as many from
N(0, 9). F is the upper value at the exact best response, smaller is better. Of each answer: dF/dx,
and the gradient of f in x with the policy held fixed, which is what alternation brings to zero.
The survey takes every corridor of four cells with rewards from {0, 1, 2, 3, 4}, and x on a grid.
"""

import argparse
import itertools
import json
import platform
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from methods import RESULTS, implicit, pbrl, run

import bilevax as bx
from bilevax.problems import Preferences, preferences

jax.config.update("jax_enable_x64", True)
GRID = np.linspace(-6, 6, 481)
WORSE = 0.02  # nats by which F must be worse to count in the survey


@eqx.filter_jit
def at(problem, x):
    """Everything about the x that the agent answers exactly."""
    mdp = problem.lower(x)
    policy = bx.best_responses(mdp).policy
    f = lambda x: problem.upper(x, policy, bx.evaluate(mdp, policy))
    return dict(
        policy=policy,
        F=f(x),
        f_x=jnp.linalg.norm(jax.grad(f)(x)),
        visits=bx.occupancy(mdp, policy) * (1 - mdp.discount),
        label_entropy=problem.label_entropy(policy),
        true_return=problem.true_return(policy),
        fit=problem.fit(policy),
    )


def slope(problem, x, h=1e-5):
    """dF/dx by central differences, for x with one entry."""
    return float(at(problem, x + h)["F"] - at(problem, x - h)["F"]) / (2 * h)


def alternation(zoo, starts, rounds=150):
    """x <- argmin f(., policy), policy <- its exact best response, in turn."""
    answers = []
    for x in starts:
        for _ in range(rounds):
            x = at(zoo.problem, x)["fit"]
        answers.append(x)
    return answers


def row(zoo, method, starts, answers, gap):
    """One method's answers from all starts, looked at with the exact best response."""
    problem, found = zoo.problem, [at(zoo.problem, x) for x in answers]
    F = np.array([float(one["F"]) for one in found])
    numbers = lambda key: [float(one[key]) for one in found]
    return dict(
        method=method,
        best=F.min(),
        median=float(np.median(F)),
        worst=F.max(),
        gap=gap,
        starts=len(F),
        x0=[float(x[0]) for x in starts],
        x=[float(x[0]) for x in answers],
        values=F.tolist(),
        true_return=numbers("true_return"),
        label_entropy=numbers("label_entropy"),
        f_x=numbers("f_x"),
        hypergradient=[slope(problem, x) for x in answers],
    )


def rows(zoo, starts):
    """Every method's line from the same starts."""
    solved = {
        "PBRL": pbrl(zoo, starts)[0],
        "independent gradients": run(zoo, bx.IndependentGradient(), starts, 3000)[0],
        "implicit gradient": implicit(zoo, starts)[0],
    }
    lines = [row(zoo, "alternation", starts, alternation(zoo, starts), None)]
    for method, solutions in solved.items():
        gap = max(float(s.gap) for s in solutions)
        lines.append(row(zoo, method, starts, [s.x for s in solutions], gap))
    return lines


def whole_table(zoo):
    """The same corridor with a model that can hold the true reward: one x per state and action."""
    mdp, length = zoo.problem.mdp, zoo.problem.states.shape[1]
    shape = mdp.reward.shape
    table = jnp.eye(mdp.reward.size).reshape(*shape, -1)
    problem = Preferences(mdp, table, segment_length=length, ridge=float(zoo.problem.ridge))
    x = jnp.zeros(mdp.reward.size)
    for _ in range(200):
        x = at(problem, x)["fit"]
    solver = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 800))
    solution = bx.solve(problem, solver, jnp.zeros_like(x), max_steps=1000)
    numbers = lambda x: {
        key: float(at(problem, x)[key]) for key in ("F", "label_entropy", "true_return")
    }
    return {"alternation": numbers(x), "PBRL": numbers(solution.x)}


def survey(zoo):
    """Of all corridors: how often alternation cannot stop near the smallest F, and what it pays."""
    problem = zoo.problem
    cells = np.asarray(problem.states)
    position = np.asarray(problem.features)[:, 0, 0]
    ridge = float(problem.ridge)
    # The agent's answer to x, and so the queries, are the same in all of them.
    answers = [at(problem, jnp.array([x])) for x in GRID]
    visits = np.array([one["visits"] for one in answers])
    counts = np.stack([np.bincount(path, minlength=position.size) for path in cells])
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    queries = np.array([_queries(problem, one, kind.ravel(), len(kinds)) for one in answers])
    distance = np.subtract.outer(kinds @ position, kinds @ position)
    model = GRID[:, None, None] * distance
    softplus, fitted = np.logaddexp(0, model), 1 / (1 + np.exp(-model))
    found = []
    for rewards in itertools.product(range(5), repeat=position.size):
        difference = np.subtract.outer(kinds @ rewards, kinds @ rewards)
        truth = 1 / (1 + np.exp(-difference))
        expected = lambda table: np.einsum(
            "xg,xgh,xh->x", queries, np.broadcast_to(table, model.shape), queries
        )
        F = expected(softplus - truth * model) + ridge / 2 * GRID**2
        f_x = expected((fitted - truth) * distance) + ridge * GRID
        stable = np.flatnonzero((f_x[:-1] < 0) & (f_x[1:] >= 0))
        if not stable.size:
            continue
        stop = stable[F[stable].argmin()]
        pays = visits @ rewards / (1 - float(problem.mdp.discount))
        best = F.argmin()
        entropy = expected((np.logaddexp(0, difference) - truth * difference)[None])
        numbers = (F[stop] - F[best], pays[best] - pays[stop], entropy[best] - entropy[stop])
        found.append((rewards, *numbers))
    corridors = [one[0] for one in found]
    excess, gain, entropy = np.array([one[1:] for one in found]).T
    worse = excess > WORSE
    lower = worse & (gain < 0)
    return dict(
        corridors=5**position.size,
        with_a_stable_point=len(corridors),
        worse=int(worse.sum()),
        of_these_true_return_higher=int((gain[worse] > 0).sum()),
        of_these_true_return_lower=int(lower.sum()),
        lower_and_labels_surer=int((entropy[lower] < 0).sum()),
        median_gain_of_true_return=float(np.median(gain[worse])),
        largest_excess=float(excess.max()),
        largest_excess_in=corridors[excess.argmax()],
        threshold=WORSE,
    )


def _queries(problem, answer, kind, size):
    states, actions = np.asarray(problem.states), np.asarray(problem.actions)
    steps = np.asarray(answer["policy"])[states, actions]
    probability = np.asarray(answer["visits"])[states[:, 0]] * steps.prod(1)
    return np.bincount(kind, probability * np.asarray(problem.chance), minlength=size)


def picture(zoo, stop, answer, path):
    """F and its two parts; the map of alternation; where the queries come from."""
    from matplotlib.figure import Figure

    problem = zoo.problem
    xs = np.linspace(-1, 5, 121)
    curve = [at(problem, jnp.array([x])) for x in xs]
    F, entropy, fit = (np.array([c[k] for c in curve]) for k in ("F", "label_entropy", "fit"))
    points = {"alternation stops": (stop, "C1", "s"), "PBRL": (answer, "C0", "o")}
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(xs, F, color="0.2", label="F(x) = f(x, π*)")
    left.plot(xs, entropy, "--", color="0.6", label="entropy of the labels")
    middle.plot(xs, fit, color="0.2", label="argmin f(·, π*)")
    middle.plot(xs, xs, color="0.7", lw=0.8)
    x, path_x, path_y = 4.0, [4.0], [4.0]
    for _ in range(25):
        new = float(at(problem, jnp.array([x]))["fit"][0])
        path_x, path_y, x = [*path_x, x, new], [*path_y, new, new], new
    middle.plot(path_x, path_y, color="C1", lw=0.9, label="alternation from x = 4")
    cells, width = np.arange(problem.mdp.num_states), 0.4
    for i, (name, (x, colour, marker)) in enumerate(points.items()):
        one = at(problem, x)
        left.plot(x, one["F"], marker, color=colour, label=name)
        middle.plot(x, one["fit"], marker, color=colour)
        right.bar(cells + (i - 0.5) * width, one["visits"], width, color=colour, label=name)
    rewards = np.asarray(problem.mdp.reward)[:, 0]
    right.set_xticks(cells, [f"cell {c}\npays {r:g}" for c, r in zip(cells, rewards, strict=True)])
    for axes, title, label in (
        (left, "loss per label", "x"),
        (middle, "one round of alternation", "x"),
        (right, "where the queries start", None),
    ):
        axes.set(title=title, xlabel=label)
        axes.legend(fontsize=7)
    left.set_ylim(0.25, 0.8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--starts", type=int, default=24)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "preferences.json")
    options = parser.parse_args()
    zoo = preferences()
    near = zoo.starts(jax.random.key(0), options.starts)
    wide = 3 * jax.random.normal(jax.random.key(1), near.shape)
    tables = {"zoo starts": rows(zoo, near), "wide starts": rows(zoo, wide)}
    print("| starts | method | F best | median | worst | dF/dx | f_x | entropy | true return |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, lines in tables.items():
        for line in lines:
            middle = int(np.argsort(line["values"])[len(line["values"]) // 2])
            print(
                f"| {name} | {line['method']} | {line['best']:.4f} | {line['median']:.4f} | "
                f"{line['worst']:.4f} | {line['hypergradient'][middle]:.1e} | "
                f"{line['f_x'][middle]:.1e} | {line['label_entropy'][middle]:.4f} | "
                f"{line['true_return'][middle]:.2f} |"
            )
    mdp = zoo.problem.mdp
    optimal = bx.best_responses(bx.MDP(mdp.reward, mdp.transition, discount=mdp.discount))
    grid = min(float(at(zoo.problem, jnp.array([x]))["F"]) for x in GRID)
    about = dict(
        smallest_F_on_grid=grid,
        optimal_true_return=float(optimal.values[0]),
        true_return_trained_on_the_truth=float(
            zoo.problem.true_return(bx.best_responses(mdp).policy)
        ),
        true_return_of_the_uniform_policy=float(zoo.problem.true_return(mdp.uniform_policy())),
        whole_table=whole_table(zoo),
        survey=survey(zoo),
    )
    print(json.dumps(about, indent=1))
    made = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "bilevax": bx.__version__,
        "device": jax.devices()[0].device_kind,
    }
    options.out.write_text(json.dumps({"made_with": made} | about | tables, indent=1) + "\n")
    if options.figure is not None:
        first = tables["zoo starts"]
        best = int(np.argmin(first[1]["values"]))
        stop, answer = first[0]["x"][0], first[1]["x"][best]
        picture(zoo, jnp.array([stop]), jnp.array([answer]), options.figure)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
