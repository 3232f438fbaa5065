"""How the runs of a folder stand: what is done, what is safe where, who works on it, and what is not known."""
