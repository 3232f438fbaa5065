"""Question answering: the evaluation of answers about passages, and their judging."""
