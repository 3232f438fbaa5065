"""ARC: grids, tasks, subsets, views, texts, voting."""
