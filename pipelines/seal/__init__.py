"""SEAL on ARC: evaluation, test-time training, self-edits, ReST-EM."""
