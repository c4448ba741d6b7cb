"""Four rooms (B2): the nine published cells, with the published means beside ours.

python benchmarks/four_rooms.py [--starts 4] [--cells 9]

Published means (Thoma et al., NeurIPS 2024) are over 10 seeds and 10,000 sampled iterations; here
every method is given the model. "known" is the best exact value known before.
"""

import argparse

import jax
from methods import implicit, pbrl, polished, row, save

from bilevax.problems import four_rooms

jax.config.update("jax_enable_x64", True)

CELLS = [(tau, beta) for tau in (0.001, 0.003, 0.005) for beta in (1.0, 3.0, 5.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        outcome = pbrl(zoo, starts)
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
