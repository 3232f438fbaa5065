"""Confidence intervals, agreement, the majority control, and the correction of scores for an imperfect judge."""
