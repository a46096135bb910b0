"""What two runs' lines of metrics are compared by."""

# What depends on the machine and the moment.
TIMES = {"step_seconds", "tokens_per_second", "teacher_share", "data_wait_seconds", "checkpoint_stall_seconds", "mfu"}
# Rollouts are timed too, and how many of their sizes were compiled is counted from a process's own start.
OF_ROLLOUTS = {"rollout/seconds", "rollout/compilations"}


def without_times(lines):
    """The lines without what depends on the machine, the moment and the process."""
    return [{name: value for name, value in line.items() if name not in TIMES | OF_ROLLOUTS} for line in lines]
