"""This machine: its home folder, files, locks, clock, terminal, and libraries that are imported late."""
