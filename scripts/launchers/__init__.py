"""Where runs happen: on this machine or on a Slurm cluster. Both go through tasks.engine.run."""
