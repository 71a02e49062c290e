"""Degradations: from a prompt to prompts that say less, for the losing policy."""
