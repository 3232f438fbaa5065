"""Models kept in the shared folder: packed in parts that prove themselves, restored to a machine's own disk."""
