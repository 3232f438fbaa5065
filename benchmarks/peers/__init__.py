"""Baselines of several benchmarks: the same work done with other software."""
