"""Creative candidates as a tree: generated, refused at the door, selected for quality and difference."""
