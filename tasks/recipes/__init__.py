"""Training recipes that several tasks follow. Imports no task."""
