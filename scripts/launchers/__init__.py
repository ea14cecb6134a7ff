"""Launchers: train runs on this machine or on a Slurm cluster. Both use tasks.engine.run."""
