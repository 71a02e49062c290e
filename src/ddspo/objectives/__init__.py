"""Objectives: from displacements to a loss."""
