"""Four rooms (B2) by cooling in stages: PBRL on a hot walker, then exact polish at falling tau.

python benchmarks/four_rooms_cooled.py [--starts 2]

PBRL solves the cell at tau = .005, whatever its own tau. Exact hypergradient ascent then follows
the answer down, with 500 steps of Adam (rate .02) at each of tau = .004, .003, .002 and .001 that
is not below the cell's own. The certificate and the value are at the cell's own tau.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from four_rooms import CELLS
from methods import row, run, save

import bilevax as bx
from bilevax.problems import four_rooms

jax.config.update("jax_enable_x64", True)

HOT, STAGES = 0.005, (0.004, 0.003, 0.002, 0.001)
UPPER = bx.PBRL(
    penalty=bx.NikaidoIsoda(uniform_weight=0.5),
    penalty_weight=bx.Homotopy(1e2, 1e4, 1500),
    update=bx.SoftmaxLogits(optax.adam(0.05)),
)
POLISH = bx.ImplicitGradient(optax.adam(0.02))


def held(solver, factor):
    """The solver on a walker held at a factor of its own tau; one program for all factors."""
    factor = jnp.asarray(max(1.0, factor))
    return bx.Annealed(solver, factor, 1, final=factor)


def cooled(zoo, tau, starts):
    """The outcome of the stages, the time of all of them counted."""
    solutions, wall, cpu = run(zoo, held(UPPER, HOT / tau), starts, 1500)
    stages = [stage for stage in STAGES if stage >= tau] or [tau]
    for stage in stages:
        points = [solution.x for solution in solutions]
        solutions, more_wall, more_cpu = run(zoo, held(POLISH, stage / tau), points, 500)
        wall, cpu = wall + more_wall, cpu + more_cpu
    return solutions, wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--starts", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    print("| tau | beta | best F | all starts | published best | known | gap |")
    print("|---|---|---|---|---|---|---|")
    for tau, beta in CELLS:
        zoo = four_rooms(tau=tau, beta=beta)
        starts = zoo.starts(jax.random.key(0), arguments.starts)
        new = row(zoo, f"tau {tau} beta {beta:g}", "cooled", cooled(zoo, tau, starts))
        rows.append(new)
        *published, known = zoo.known.values()
        spread = " ".join(f"{value:.3f}" for value in new.values)
        print(
            f"| {tau} | {beta:g} | {new.best:.3f} | {spread} | {max(published):.2f} | {known:.3f} "
            f"| {new.gap:.0e} |",
            flush=True,
        )
    print(f"\nwritten to {save('four_rooms_cooled', rows)}")


if __name__ == "__main__":
    main()
