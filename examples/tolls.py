"""Tolls on a small road network, written in the TNTP format: a short cut that fills up."""

import tempfile
from pathlib import Path

import jax
import numpy as np

import bilevax as bx
from bilevax.problems import tolls

jax.config.update("jax_enable_x64", True)

# 1,000 cars drive from zone 1 to zone 2: over node 3 (a narrow short cut) or node 4 (a wide ring).
# A row is: from, to, capacity, length, free-flow minutes, b, power.
NETWORK = """
<NUMBER OF ZONES> 2
<NUMBER OF NODES> 4
<FIRST THRU NODE> 3
<NUMBER OF LINKS> 5
<END OF METADATA>
1 3  300 2  6 0.15 4 ;
3 2  300 2  6 0.15 4 ;
1 4  900 5 10 0.15 4 ;
4 2  900 5 10 0.15 4 ;
3 4  400 1  2 0.15 4 ;
"""
TRIPS = """
<NUMBER OF ZONES> 2
<END OF METADATA>
Origin 1
2 : 1000 ;
"""

with tempfile.TemporaryDirectory() as folder:
    network, trips = Path(folder, "net.tntp"), Path(folder, "trips.tntp")
    network.write_text(NETWORK)
    trips.write_text(TRIPS)
    # Travellers know free-flow times and tolls, and scatter with an entropy of theta minutes.
    zoo = tolls(network=str(network), trips=str(trips), max_toll=15.0, theta=2.0)

starts = zoo.starts(jax.random.key(0), 2)
solver = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 300), update=zoo.solver.update)
best = bx.run(zoo.problem, solver, starts, max_steps=400).best

for source, minutes in zoo.known.items():
    print(f"mean travel time {minutes:7.2f} minutes, {source}")
print(f"mean travel time {best.best_response_value:7.2f} minutes, a toll for each link")
print(f"certified gap    {best.gap:7.0e} minutes a trip")
found = zoo.arrays(best)
print("link     toll  cars  minutes with this traffic")
columns = [found[name] for name in ("tail", "head", "x", "flows", "link_times")]
for row in np.column_stack(columns):
    print("{:.0f} -> {:.0f} {:6.2f} {:5.0f} {:8.1f}".format(*row))
assert best.best_response_value < min(zoo.known.values())
assert np.all(found["x"] >= 0)
