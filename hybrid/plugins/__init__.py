"""Installed pipelines, graders and report sections, and calls of their code."""
