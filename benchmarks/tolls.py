"""Toll design (B9): tolls on a road network, with the network without tolls and uniform tolls.

python benchmarks/tolls.py --network NET.tntp --trips TRIPS.tntp [--theta 2] [--starts 4]

The files are in the TNTP format and no part of this repository. The published table is Sioux Falls:
24 nodes, 76 links, 360,600 trips (LeBlanc, Morlok and Pierskalla 1975; files by the Transportation
Networks for Research Core Team). Every method starts from the same tolls. Times are means over
trips at the travellers' exact best response, in minutes (smaller is better), and vehicle-hours.
"""

import argparse
import json
import platform
import statistics
from pathlib import Path

import jax
import optax
from methods import POLISH_STEPS, RESULTS, implicit, pbrl, polished, run

import bilevax as bx
from bilevax.problems import tolls

jax.config.update("jax_enable_x64", True)


def cooled(zoo, starts):
    """Exact hypergradient descent as before, Adam's step falling to nothing along the run."""
    adam = optax.adam(optax.cosine_decay_schedule(0.2, zoo.steps))
    return run(zoo, bx.ImplicitGradient(adam), starts, zoo.steps)


def quasi_newton(zoo, starts):
    """What polishes, from the starts themselves."""
    return run(zoo, bx.QuasiNewton(), starts, POLISH_STEPS, tol=1e-6)


def row(method, trips, outcome):
    """One method's line of the table."""
    solutions, wall, cpu = outcome
    values = sorted(float(s.best_response_value) for s in solutions)
    return dict(
        method=method,
        best=values[0],
        median=statistics.median(values),
        worst=values[-1],
        vehicle_hours=values[0] * trips / 60,
        gap=max(float(s.gap) for s in solutions),
        starts=len(values),
        steps=max(int(s.stats["steps"]) for s in solutions),
        wall_seconds=round(wall, 2),
        cpu_seconds=round(cpu, 2),
        values=values,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--trips", required=True)
    parser.add_argument("--theta", type=float, default=2.0)
    parser.add_argument("--max-toll", type=float, default=10.0)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS / "tolls.json")
    options = parser.parse_args()
    zoo = tolls(
        network=options.network,
        trips=options.trips,
        theta=options.theta,
        max_toll=options.max_toll,
    )
    trips = float(zoo.problem.trips)
    starts = zoo.starts(jax.random.key(0), options.starts)
    outcome = pbrl(zoo, starts)
    outcomes = {
        "PBRL": outcome,
        "PBRL + polish": polished(zoo, outcome[0]),
        "implicit, Adam .05": implicit(zoo, starts),
        "implicit, Adam .2 cooled": cooled(zoo, starts),
        "quasi-Newton": quasi_newton(zoo, starts),
    }
    rows = [row(method, trips, outcome) for method, outcome in outcomes.items()]
    print(
        "| | best | median | worst | vehicle-hours | gap | wall s |\n|---|---|---|---|---|---|---|"
    )
    for name, value in zoo.known.items():
        print(f"| {name} | {value:.4f} | | | {value * trips / 60:,.0f} | | |")
    for line in rows:
        print(
            f"| {line['method']} | {line['best']:.4f} | {line['median']:.4f} | "
            f"{line['worst']:.4f} | {line['vehicle_hours']:,.0f} | {line['gap']:.0e} | "
            f"{line['wall_seconds']:.0f} |"
        )
    made = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "bilevax": bx.__version__,
        "device": jax.devices()[0].device_kind,
    }
    about = dict(
        network=Path(options.network).name,
        theta=options.theta,
        max_toll=options.max_toll,
        trips=trips,
        known=zoo.known,
    )
    options.out.write_text(json.dumps(about | {"made_with": made, "rows": rows}, indent=1) + "\n")
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
