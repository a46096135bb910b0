"""How a verb becomes one of a run's many processes, by the config's `distributed` and by the cluster it runs in."""

from __future__ import annotations

import json
import zlib

import jax

from atkd_jax import __version__
from atkd_jax.config import Config, DistributedConfig
from atkd_jax.sharding import join_processes


def join(config: Config) -> Config:
    """Joins the other processes, if there are any, before the first use of a device.

    Args:
        config: The run; but for the number of the process it must be the same in all.

    Returns:
        The config without the process's own place, so that what is kept of the run is the same whoever keeps it.

    Raises:
        InputError: see `join_processes`.
    """
    own = config.distributed
    shared = config.model_copy(update={"distributed": DistributedConfig()})
    join_processes(
        coordinator_address=own.coordinator_address,
        num_processes=own.num_processes,
        process_id=own.process_id,
        detect=own.detect,
        timeout_seconds=own.join_timeout_seconds,
        facts={"config": _fingerprint(shared), "atkd_jax": __version__, "jax": jax.__version__},
    )
    return shared


def _fingerprint(config: Config) -> str:
    # Where a host keeps its models and data sets is its own affair.
    content = config.model_dump(mode="json", exclude={"cache_dir"})
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
