"""Tax design (B6): the rates found at three weights of the consumers' entropy.

python benchmarks/tax.py [--taus .1 .2 .3] [--starts 4] [--assets 41] [--reference]

Every method starts from the same rates: .3 for all (as published), near that, and uniform in the
box, and all have the exact model; HPGD takes the government's own part of the gradient from
episodes of the consumers. F is the government's discounted return at the consumers' exact best
response (larger is better). A second table is about the best rates found: F there, on a grid twice
as fine, and with the income tax alone; what consumers then work and spend. With --reference the
best values become those to reach in `bilevax bench tax`.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from methods import hpgd, implicit, pbrl, row, save

import bilevax as bx
from bilevax.bench.plan import Arguments, Budget, plan
from bilevax.bench.reference import write_references
from bilevax.bench.suites import SUITES
from bilevax.problems import tax
from bilevax.problems._tax import upper_at_best_response

jax.config.update("jax_enable_x64", True)

Found = dict[float, list[tuple[float, np.ndarray]]]
"""By tau, each method's best value and its rates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--taus", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--assets", type=int, default=41)
    parser.add_argument("--reference", action="store_true", help="store the best values found")
    options = parser.parse_args()
    rows, found = compare(options.taus, options.starts, options.assets)
    consequences(found, options.assets)
    print(f"\nwritten to {save('tax', rows)}")
    if options.reference:
        print(f"written to {store_reference(found, options.starts)}")


def compare(taus: list[float], count: int, assets: int):
    """The rows of both methods, and what each found; prints the first table."""
    rows, found = [], {}
    columns = "best F | median | worst | gap | income | good 1 | good 2 | good 3 | CPU s"
    print(f"| tau | method | {columns} |\n|---|---|---|---|---|---|---|---|---|---|---|")
    for tau in taus:
        zoo = tax(assets=assets, tau=tau)
        starts = zoo.starts(jax.random.key(0), count)
        for name, method in (("PBRL", pbrl), ("implicit", implicit), ("HPGD", hpgd)):
            outcome = method(zoo, starts)
            line = row(zoo, f"tau {tau:g}", name, outcome)
            best = min(outcome[0], key=lambda solution: float(solution.best_response_value))
            rows.append(line)
            rates = " | ".join(f"{rate:.3f}" for rate in np.asarray(best.x))
            values = f"{line.best:.3f} | {line.median:.3f} | {line.worst:.3f} | {line.gap:.0e}"
            print(f"| {tau:g} | {name} | {values} | {rates} | {line.cpu_seconds:.0f} |", flush=True)
            found.setdefault(tau, []).append((line.best, np.asarray(best.x)))
    return rows, found


def consequences(found: Found, assets: int) -> None:
    """Prints what the best rates of each tau mean."""
    finer = 2 * assets - 1
    columns = (
        f"all rates .3 | rates found | on {finer} points | income tax alone | hours | spending"
    )
    print(f"\n| tau | {columns} |\n|---|---|---|---|---|---|---|")
    for tau, answers in found.items():
        value, x = max(answers, key=lambda answer: answer[0])
        zoo, fine = tax(assets=assets, tau=tau), tax(assets=finer, tau=tau)
        (known,) = zoo.known.values()
        there = -float(upper_at_best_response(fine.problem, jnp.asarray(x)))
        alone = -float(upper_at_best_response(zoo.problem, jnp.asarray(x).at[1:].set(0)))
        hours, spending = habits(zoo.problem, jnp.asarray(x))
        values = " | ".join(f"{value:.3f}" for value in (known, value, there, alone))
        print(f"| {tau:g} | {values} | {hours:.2f} | {spending:.2f} |")


def habits(problem, x: jax.Array) -> tuple[float, float]:
    """Mean hours and mean spending on all goods in a step of discounted time."""
    mdp = problem.lower(x)
    policy = bx.best_responses(mdp).policy
    share = bx.occupancy(mdp, policy)
    share /= jnp.sum(share)
    spending = jnp.sum(problem.mean_spending(x, policy), axis=-1)
    return float(jnp.sum(share * problem.mean_hours(policy))), float(jnp.sum(share * spending))


def store_reference(found: Found, starts: int) -> Path:
    """The best values of all methods, as the references of the suite."""
    arguments = Arguments("tax", tuple(SUITES["tax"].case_names), ("pbrl",), 1, 1, Budget())
    values = {
        f"tau {tau:g}": dict(
            value=max(value for value, _ in answers),
            source=f"best of PBRL and the exact hypergradient, {starts} starts each",
        )
        for tau, answers in found.items()
    }
    return write_references(plan(arguments), values, "python benchmarks/tax.py --reference")


if __name__ == "__main__":
    main()
