"""The training engine: `tasks.engine.run.run(cfg)` is the only way a run happens."""
