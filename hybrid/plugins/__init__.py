"""Pipelines and graders that are installed, and the code of others that hybrid calls."""
