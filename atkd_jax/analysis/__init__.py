"""Studies: grids of runs over seeds, what they measured, and whether it differs by more than the seeds do."""
