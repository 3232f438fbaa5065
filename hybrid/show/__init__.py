"""What a model saw and said, item by item: for people, and as JSON."""
