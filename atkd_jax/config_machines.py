"""The part of the config tree that says where a run takes place, and what is recorded of the machines."""

from __future__ import annotations

from pydantic import Field

from atkd_jax.config_node import Node


class MeshConfig(Node):
    """How the devices are arranged. Every axis is a number of devices; data takes all that is left."""

    fsdp: int = Field(default=1, ge=1, description="Parameters and batch rows are split over this axis.")
    tensor: int = Field(default=1, ge=1, description="Heads, MLP width and vocabulary are split over this axis.")
    sequence: int = Field(default=1, ge=1, description="The tokens of a row are split over this axis, for long rows.")
    teacher_fsdp: int | None = Field(
        default=None, ge=1, description="The teacher's own fsdp; the student's if not set. It spreads a large teacher."
    )
    teacher_tensor: int | None = Field(
        default=None, ge=1, description="The teacher's own tensor; the student's if not set."
    )


class DistributedConfig(Node):
    """Many processes of one run. In a cluster that jax knows there is nothing to set: it says all of it."""

    coordinator_address: str | None = Field(
        default=None, description="Host of process 0 and a free port on it, as host:port."
    )
    num_processes: int | None = Field(default=None, ge=1, description="How many processes there are.")
    process_id: int | None = Field(default=None, ge=0, description="The number of this process, from 0.")
    detect: bool = Field(
        default=True,
        description="Look for Slurm, Open MPI, Cloud TPU, GKE or Kubernetes, and take from it what is not set here.",
    )
    join_timeout_seconds: int = Field(
        default=300, ge=1, description="How long the processes wait for each other at the start."
    )


class ProfileConfig(Node):
    """Steps that JAX's profiler records into run_dir/profile, for xprof and TensorBoard."""

    start_step: int | None = Field(
        default=None, ge=1, description="The first step that is recorded; none to record nothing."
    )
    steps: int = Field(default=3, ge=1, description="How many steps are recorded.")
