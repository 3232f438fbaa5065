"""A pipeline and a grader in a distribution of their own."""
