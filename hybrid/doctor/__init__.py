"""`hybrid doctor`: what is odd in a folder and on this machine, why it does not count, and what to do about it."""
