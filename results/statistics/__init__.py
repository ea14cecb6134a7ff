"""Statistics of comparisons between methods.

Every function takes plain numbers and returns plain numbers. Nothing here knows artefacts or runs.
"""
