"""The graders, one a module; found by name through the entry points `hybrid.graders`."""
