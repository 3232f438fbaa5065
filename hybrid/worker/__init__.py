"""A worker: takes runs from the shared folder and executes them."""
