"""Experiments, one a module; found by name through the entry points `hybrid.pipelines`."""
