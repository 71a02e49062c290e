"""Stages: one file a verb. They meet only in the run folder and never import one another."""
