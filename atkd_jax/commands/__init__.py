"""One module per verb of `launch.py`; each holds an `Options` class and `run(options)`.

Modules here import jax and what stands on it inside their functions only, so that `--help` answers at once.
"""
