"""The one exception that means: what the user gave is wrong, and this sentence says how to mend it."""


class InputError(ValueError):
    """Bad input from outside: a file, a config, a data set, a checkpoint.

    Its message is one sentence that names what was read, which rule it broke, what came and what to do. `launch.py`
    prints it and exits with code 2; every other exception is a fault of the program and keeps its traceback.
    """
