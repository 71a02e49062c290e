"""Adaptations: which weights of a denoiser are trained, and how the frozen reference is kept beside them."""
