"""A worker: takes runs from the folder and does them."""
