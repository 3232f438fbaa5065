"""This machine: its home folder, files, locks, signals, clock, terminal, and libraries that are imported late."""
