"""Work by name: problems, solvers and settings that fit into a JSON file.

The command line and the benchmarks are both thin over this.
"""
