"""Doing a run: its chain of stages, the work of each, the engines, what this machine can open, the results."""
