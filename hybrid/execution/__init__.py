"""Executes a run: binds its stages, opens the models, answers the items of each stage and assembles the outputs."""
