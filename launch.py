"""The one entry point: `python launch.py VERB [NAME] --config configs/X.yaml [--a.b value]`."""

import sys

from atkd_jax.commands.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
