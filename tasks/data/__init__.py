"""Data that several tasks read. Imports no task."""
