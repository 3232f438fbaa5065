"""Notebooks that work on one run on a rented machine: find the folder, install hybrid, start a worker."""

from hybrid.notebook.document import NotebookKind, NotebookPlan, place_there, write_notebook

__all__ = ["NotebookKind", "NotebookPlan", "place_there", "write_notebook"]
