"""Measure time and memory of optimizer steps (Tables I.2 and I.3)."""
