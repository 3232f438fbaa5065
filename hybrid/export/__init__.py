"""Results for other programs: a run's records as typed rows, and as the files that other tools read."""
