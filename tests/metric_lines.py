"""What two runs' lines of metrics are compared by."""

# What depends on the machine and the moment.
TIMES = {"step_seconds", "tokens_per_second", "teacher_share", "data_wait_seconds", "checkpoint_stall_seconds", "mfu"}


def without_times(lines, *, more=()):
    """The lines without their times, and without `more` of that kind."""
    return [{name: value for name, value in line.items() if name not in {*TIMES, *more}} for line in lines]
