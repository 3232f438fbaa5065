"""Grades: a file of outputs judged and summed up, what graders compare by, and what is kept of models' replies."""
