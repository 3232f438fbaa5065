"""Knowledge incorporation: a model writes texts about passages, learns them, and learns to write better ones."""
