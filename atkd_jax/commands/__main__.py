"""`python -m atkd_jax.commands` is `launch.py`, wherever the package is installed."""

import sys

from atkd_jax.commands.main import main

sys.exit(main(sys.argv[1:]))
