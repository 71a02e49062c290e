"""Schedules: numbers that depend on the time of a pair, such as its weight or a probability."""
