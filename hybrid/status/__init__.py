"""The status of runs: completed items, where their records are safe, which workers run, and what is unknown."""
