"""Models and scores that several tasks use. Imports no task."""
