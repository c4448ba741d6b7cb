"""A suite of one's own: two problems, a method of one's own, and what a small run says.

On the command line:  bilevax bench own_suite.py:SUITE --out runs/own
"""

import jax.numpy as jnp
import optax

import bilevax as bx
from bilevax.bench import Arguments, Budget, Case, Suite, run_bench, summarise


# A problem: a function without arguments, or with defaults that a case may set.
def guided_walk(price: float = 0.1):
    """A designer pays an agent for moving between two states, and wants it in the second."""

    def lower(x):
        stay_or_move = jnp.stack([jnp.eye(2), 1 - jnp.eye(2)], axis=1)
        return bx.MDP(jnp.zeros((2, 2)).at[:, 1].add(x), stay_or_move, discount=0.8, tau=0.3)

    def upper(x, policy, evaluation):
        return price * jnp.sum(x**2) - evaluation.expected_return(jnp.array([[0, 0], [1, 1]]))

    return bx.BilevelProblem(upper, lower), jnp.zeros(2)


# A method: a function of the problem and of the number of steps that gives a solver.
def slow_implicit(problem, steps: int):
    """The implicit gradient with plain gradient descent."""
    return bx.ImplicitGradient(optax.sgd(0.05))


SUITE = Suite(
    name="guided-walk",
    summary="An agent is paid to stay in the second of two states, at two prices.",
    # A bare FILE.py lies beside the suite's own file.
    cases=(
        Case("cheap", "own_suite.py:guided_walk", dict(price=0.1)),
        Case("dear", "own_suite.py:guided_walk", dict(price=1.0)),
    ),
    methods=("implicit", "own_suite.py:slow_implicit"),
    steps=50,
    seeds=6,
    starts=1,
)

if __name__ == "__main__":
    rows = run_bench(
        Arguments(
            suite=f"{__file__}:SUITE",
            cases=("cheap",),
            methods=SUITE.methods,
            seeds=6,
            starts=1,
            budget=Budget("steps", 50),
        )
    )
    for one in summarise(rows, SUITE):
        print(f"{one.case}, {one.method}: {one.median:.4f}, interval {one.interval}")
