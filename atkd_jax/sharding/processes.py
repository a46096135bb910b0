"""Starts jax.distributed: by explicit settings, or by jax's own detection of the cluster it runs in."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax._src import clusters, distributed  # No public name tells whether a cluster was found.

from atkd_jax.errors import InputError
from atkd_jax.sharding.roll_call import call_roll

# How long a process that ends with an error waits for others that end as well, so that each tells its own error.
_LEAVING_SECONDS = 3.0


class Membership(NamedTuple):
    """A process's place among those of a run."""

    coordinator_address: str
    num_processes: int
    process_id: int
    local_device_ids: Sequence[int] | None


def join_processes(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    detect: bool = True,
    timeout_seconds: int = 300,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Makes this process one of the run's many, where it is one of many; else does nothing.

    What is not given is taken from the cluster, which jax detects: Slurm, Open MPI, Cloud TPU, GKE and Kubernetes. It
    must come before the first use of a device.

    Args:
        coordinator_address: `host:port` of process 0, where the port is free.
        num_processes: How many processes there are.
        process_id: The number of this one, from 0.
        detect: Whether to look for a cluster.
        timeout_seconds: How long to wait for the other processes.
        facts: What must be the same in all processes, see `call_roll`.

    Raises:
        InputError: The settings are incomplete, the cluster cannot be asked, or some process does not come.
    """
    membership = find_membership(
        coordinator_address=coordinator_address,
        num_processes=num_processes,
        process_id=process_id,
        detect=detect,
        timeout_seconds=timeout_seconds,
    )
    if membership is None or membership.num_processes == 1:
        return
    call_roll(
        membership.coordinator_address,
        process_id=membership.process_id,
        num_processes=membership.num_processes,
        timeout_seconds=timeout_seconds,
        facts=facts or {},
    )
    # Its handler would take SIGTERM from the loop, which agrees with the other processes on a step by itself.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator_address=membership.coordinator_address,
        num_processes=membership.num_processes,
        process_id=membership.process_id,
        local_device_ids=membership.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=timeout_seconds,
    )


def find_membership(
    *,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    detect: bool,
    timeout_seconds: int,
) -> Membership | None:
    """Returns this process's place, None where it is on its own. See `join_processes`.

    Raises:
        InputError: The settings are incomplete or contradict each other, or the cluster cannot be asked.
    """
    given = {
        "distributed.coordinator_address": coordinator_address,
        "distributed.num_processes": num_processes,
        "distributed.process_id": process_id,
    }
    ids = None
    if detect and None in given.values():
        coordinator_address, num_processes, process_id, ids = _detect(*given.values(), timeout_seconds=timeout_seconds)
    missing = [
        name
        for name, value in zip(given, (coordinator_address, num_processes, process_id), strict=True)
        if value is None
    ]
    if len(missing) == len(given):
        return None
    if missing or coordinator_address is None or num_processes is None or process_id is None:
        raise InputError(
            f"{' and '.join(missing)} must be given as well, because no cluster was found that says it; give all three "
            "of distributed.coordinator_address, distributed.num_processes and distributed.process_id, or none"
        )
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"distributed.process_id={process_id} must be below distributed.num_processes={num_processes}: the "
            "processes are numbered from 0"
        )
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"distributed.coordinator_address={coordinator_address} must be the host of process 0 and a free port on "
            "it, as host:port"
        )
    return Membership(coordinator_address, num_processes, process_id, ids)


def _detect(
    coordinator_address: Any, num_processes: Any, process_id: Any, *, timeout_seconds: int
) -> tuple[str | None, int | None, int | None, Sequence[int] | None]:
    try:
        with warnings.catch_warnings():
            # jax warns, and goes on alone, in a pod without the package that it asks Kubernetes with.
            warnings.filterwarnings("error" if "JOB_COMPLETION_INDEX" in os.environ else "ignore", "Kubernetes")
            return clusters.ClusterEnv.auto_detect_unset_distributed_params(
                coordinator_address, num_processes, process_id, None, None, timeout_seconds
            )
    except Exception as error:  # Each kind of cluster raises what its own interface raises.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"this process seems to be part of a cluster, but the cluster could not be asked for its place in it "
            f"({reason}); give distributed.coordinator_address, distributed.num_processes and distributed.process_id, "
            "or, for a run of one process, distributed.detect=false"
        ) from error


def process_name() -> str:
    """Returns `process 3: ` where this is one of many processes, else nothing; to begin an error's sentence with."""
    return f"process {distributed.global_state.process_id}: " if jax.distributed.is_initialized() else ""


def leave_after_error(exit_code: int) -> None:
    """Ends this process at once, where it is one of many; jax would wait minutes for those that cannot know."""
    if not jax.distributed.is_initialized():
        return
    client = distributed.global_state.client
    if client is not None:
        with contextlib.suppress(Exception):
            client.wait_at_barrier("atkd_jax_leaving", round(_LEAVING_SECONDS * 1000))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
