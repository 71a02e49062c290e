"""Tensors in, tensors out: no model, no configuration, no device, no files."""
