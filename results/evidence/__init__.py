"""What runs show of an artefact's claims.

Three kinds of evidence are kept apart: the mechanism (results/mechanism.py), the direction of a
difference (direction.py) and agreement with a published value (published.py).
"""
