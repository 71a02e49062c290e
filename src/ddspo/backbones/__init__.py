"""Backbones: how each family of diffusers pipelines reads a prompt and predicts."""
