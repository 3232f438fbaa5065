"""A pipeline, a grader and a report section in a distribution of their own."""
