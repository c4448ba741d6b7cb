"""Four rooms (B2): the nine published cells, with the published means beside ours.

python benchmarks/four_rooms.py [--starts 4] [--cells 9]

PBRL anneals from tau = .004 in one half of the starts and from .005 in the other: which of the two
leads to the better optimum depends on the cell. Published means (Thoma et al., NeurIPS 2024) are
over 10 seeds and 10,000 iterations, of HPGD and zero-order search, which sample, and of AMD, which
takes exact gradients; here every method is given the model. "known" is the best exact value known
before.
"""

import argparse
from dataclasses import replace

import jax
from methods import implicit, pbrl, polished, row, save

from bilevax.problems import four_rooms

jax.config.update("jax_enable_x64", True)

CELLS = [(tau, beta) for tau in (0.001, 0.003, 0.005) for beta in (1.0, 3.0, 5.0)]


HOT = (0.004, 0.005)


def annealed(zoo, tau, starts):
    """PBRL from each hot temperature, with its share of the starts."""
    share = len(starts) // len(HOT)
    parts = []
    for i, hot in enumerate(HOT):
        own = replace(zoo, hot=max(1.0, hot / tau))
        parts.append(pbrl(own, starts[i * share : (i + 1) * share]))
    solutions, wall, cpu = zip(*parts, strict=True)
    return [s for part in solutions for s in part], sum(wall), sum(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--cells", type=int, default=len(CELLS))
    arguments = parser.parse_args()
    rows = []
    print("best F over starts (all starts of PBRL + polish in brackets)")
    print("| tau | beta | PBRL | PBRL + polish | implicit | published best | known | gap |")
    print("|---|---|---|---|---|---|---|---|")
    for tau, beta in CELLS[: arguments.cells]:
        zoo = four_rooms(tau=tau, beta=beta)
        starts = zoo.starts(jax.random.key(0), arguments.starts)
        outcome = annealed(zoo, tau, starts)
        outcomes = {
            "pbrl": outcome,
            "pbrl + polish": polished(zoo, outcome[0]),
            "implicit": implicit(zoo, starts),
        }
        name = f"tau {tau} beta {beta:g}"
        new = [row(zoo, name, method, outcome) for method, outcome in outcomes.items()]
        rows += new
        ours, polish, exact = new
        *published, known = zoo.known.values()
        spread = " ".join(f"{value:.3f}" for value in polish.values)
        print(
            f"| {tau} | {beta:g} | {ours.best:.3f} | {polish.best:.3f} ({spread}) | "
            f"{exact.best:.3f} | {max(published):.2f} | {known:.3f} | {ours.gap:.0e} |",
            flush=True,
        )
    print(f"\nwritten to {save('four_rooms', rows)}")


if __name__ == "__main__":
    main()
