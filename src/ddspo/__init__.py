"""Align text-to-image diffusion models with what a prompt says, without labels and without a reward model.

DDSPO: Direct Diffusion Score Preference Optimization via Stepwise Contrastive Policy-Pair Supervision
(Kim, Lyu, Kim, Seo; arXiv 2512.23426).
"""
