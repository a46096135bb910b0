"""One module per verb of `launch.py`, each with `run(options)`; `verbs` is their table."""
