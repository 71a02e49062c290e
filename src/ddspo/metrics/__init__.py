"""Metrics: a value for every image, so that statistics can be paired."""
