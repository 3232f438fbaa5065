"""Intervals, agreement, controls and corrections."""
