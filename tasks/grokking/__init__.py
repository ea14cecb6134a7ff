"""Grokking on modular addition: the experiment of the paper's first version."""
