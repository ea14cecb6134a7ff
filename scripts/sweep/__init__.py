"""Plan runs, find their states, price them, and start them on this machine or on a Slurm cluster."""
