"""The folder protocol: one writer per path, files written once, named by content, self-verifying (docs/format.md)."""
