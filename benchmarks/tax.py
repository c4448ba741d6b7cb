"""Tax design (B6): the rates found at three weights of the consumers' entropy.

python benchmarks/tax.py [--taus .1 .2 .3] [--starts 4] [--assets 41] [--reference]

Every method starts from the same rates: .3 for all (as published), near that, and uniform in the
box. F is the government's discounted return at the consumers' exact best response (larger is
better). A second table evaluates the best rates on a grid twice as fine. With --reference the best
values become those to reach in `bilevax bench tax`.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from methods import implicit, pbrl, row, save

from bilevax.bench.plan import Arguments, Budget, plan
from bilevax.bench.reference import write_references
from bilevax.bench.suites import SUITES
from bilevax.problems import tax
from bilevax.problems._tax import upper_at_best_response

jax.config.update("jax_enable_x64", True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--taus", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--assets", type=int, default=41)
    parser.add_argument("--reference", action="store_true", help="store the best values found")
    options = parser.parse_args()
    rows, found = [], {}
    print("| tau | method | best F | median | worst | gap | income | good 1 | good 2 | good 3 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for tau in options.taus:
        zoo = tax(assets=options.assets, tau=tau)
        starts = zoo.starts(jax.random.key(0), options.starts)
        for name, method in (("PBRL", pbrl), ("implicit", implicit)):
            outcome = method(zoo, starts)
            line = row(zoo, f"tau {tau:g}", name, outcome)
            best = max(outcome[0], key=lambda s, zoo=zoo: zoo.natural_value(s.best_response_value))
            rows.append(line)
            rates = " | ".join(f"{rate:.3f}" for rate in np.asarray(best.x))
            values = f"{line.best:.3f} | {line.median:.3f} | {line.worst:.3f} | {line.gap:.0e}"
            print(f"| {tau:g} | {name} | {values} | {rates} |", flush=True)
            found.setdefault(tau, []).append((line.best, np.asarray(best.x)))
    finer = 2 * options.assets - 1
    print(f"\n| tau | F at rates .3 | F found | on {finer} points |\n|---|---|---|---|")
    for tau, answers in found.items():
        value, x = max(answers, key=lambda answer: answer[0])
        start, fine = tax(assets=options.assets, tau=tau), tax(assets=finer, tau=tau)
        (known,) = start.known.values()
        on_finer = -float(upper_at_best_response(fine.problem, jnp.asarray(x)))
        print(f"| {tau:g} | {known:.3f} | {value:.3f} | {on_finer:.3f} |")
    print(f"\nwritten to {save('tax', rows)}")
    if options.reference:
        print(f"written to {store_reference(found, options.starts)}")


def store_reference(found, starts: int):
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
