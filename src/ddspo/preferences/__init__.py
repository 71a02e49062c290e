"""Preference datasets: who preferred which image of a prompt, in the formats that they are published in."""
