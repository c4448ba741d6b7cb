"""Random Stackelberg Markov games (B1): ten games, eight equal starts, five methods.

python benchmarks/stackelberg.py [--games 10] [--starts 8] [--tau 0.01 0.1]

The reference is exact hypergradient ascent, plain and annealed as PBRL is. Polishing starts it
again from PBRL's answers.
"""

import argparse

import jax
from methods import annealed_implicit, implicit, independent, pbrl, polished, row, save

from bilevax.problems import stackelberg

jax.config.update("jax_enable_x64", True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--games", type=int, default=10)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--tau", type=float, nargs="+", default=[0.01, 0.1])
    arguments = parser.parse_args()
    rows = []
    for tau in arguments.tau:
        print(f"\ntau {tau}: best F over {arguments.starts} starts")
        print("| game | PBRL | PBRL + polish | implicit | annealed | independent | PBRL gap |")
        print("|---|---|---|---|---|---|---|")
        for seed in range(arguments.games):
            zoo = stackelberg(tau=tau, seed=seed)
            starts = zoo.starts(jax.random.key(seed), arguments.starts)
            outcome = pbrl(zoo, starts)
            outcomes = {
                "pbrl": outcome,
                "pbrl + polish": polished(zoo, outcome[0]),
                "implicit": implicit(zoo, starts),
                "implicit, annealed": annealed_implicit(zoo, starts),
                "independent": independent(zoo, starts),
            }
            name = f"tau {tau} game {seed}"
            new = [row(zoo, name, method, outcome) for method, outcome in outcomes.items()]
            rows += new
            best = " | ".join(f"{r.best:.3f}" for r in new)
            print(f"| {seed} | {best} | {new[0].gap:.0e} |", flush=True)
    print(f"\nwritten to {save('stackelberg', rows)}")


if __name__ == "__main__":
    main()
