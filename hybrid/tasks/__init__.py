"""Data sets, and what is true of them alone. The engine never imports them."""
