"""Notebooks that work on one run on a rented machine: they find the folder, install hybrid and start a worker."""

from hybrid.notebook.document import NotebookKind, NotebookPlan, is_guess, place_there, write_notebook

__all__ = ["NotebookKind", "NotebookPlan", "is_guess", "place_there", "write_notebook"]
