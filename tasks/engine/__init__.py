"""The training engine: every run goes through `tasks.engine.run.run(cfg)`."""
