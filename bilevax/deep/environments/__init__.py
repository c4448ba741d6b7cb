"""Environments: in-tree ones, and adapters to MinAtar, Gymnasium and Atari."""
