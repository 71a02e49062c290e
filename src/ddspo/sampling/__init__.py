"""Pairs made by a model: what is sampled, and how it comes to be in a folder of shards."""
