"""Detectors: what an image holds."""
