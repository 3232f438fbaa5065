"""What a laptop does with a run that others work on."""
