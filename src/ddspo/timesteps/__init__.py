"""Timesteps: how often each time of the forward process is drawn."""
