"""State, optimizer, one pure train step, the one loop, checkpoints and metrics."""
