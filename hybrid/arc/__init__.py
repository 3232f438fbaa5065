"""The ARC domain: grids, views of a task, their text, the data sets, and voting. Pure Python; knows no engine."""
