"""Statistics of comparisons between methods. docs/explanation/evidence.md says why each one is used.

Every function takes plain numbers and returns plain numbers. Nothing here knows artefacts or runs.
"""
