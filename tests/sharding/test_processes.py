import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from atkd_jax.errors import InputError
from atkd_jax.sharding.processes import Membership, find_membership, join_processes, leave_after_error, process_name

ROOT = Path(__file__).parent.parent.parent
NOTHING = {"coordinator_address": None, "num_processes": None, "process_id": None}
CLUSTERS = {
    "slurm": (
        {
            "SLURM_JOB_ID": "4242",
            "SLURM_STEP_NODELIST": "node[007-008]",
            "SLURM_NTASKS": "16",
            "SLURM_PROCID": "9",
            "SLURM_LOCALID": "1",
            "SLURM_STEP_NUM_NODES": "2",
        },
        Membership("node007:61586", 16, 9, [1]),
    ),
    "open mpi": (
        {
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_RANK": "3",
            "OMPI_COMM_WORLD_LOCAL_RANK": "3",
        },
        Membership("10.96.0.1:62624", 4, 3, [3]),
    ),
}


def find(**changes):
    return find_membership(**NOTHING | {"detect": True, "timeout_seconds": 5} | changes)


def test_no_cluster_and_no_settings_is_a_run_of_its_own():
    assert find() is None
    join_processes()
    assert (jax.process_count(), process_name()) == (1, "")
    leave_after_error(3)


def test_settings_are_taken_as_they_are():
    given = {"coordinator_address": "10.0.0.1:1234", "num_processes": 4, "process_id": 3}
    assert find(**given) == Membership("10.0.0.1:1234", 4, 3, None)


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_that_jax_knows_say_it_all(name, monkeypatch):
    variables, expected = CLUSTERS[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert find() == expected
    assert find(detect=False) is None
    given = {"coordinator_address": "10.0.0.1:1234", "num_processes": 2, "process_id": 0}
    assert find(**given) == Membership("10.0.0.1:1234", 2, 0, None)


def test_a_cluster_of_gke_tpus_says_it_all():
    # In a process of its own: jax looks for a TPU's variables when it is imported.
    code = """
import socket
socket.gethostbyname = lambda name: "10.0.0.7"
from atkd_jax.sharding.processes import find_membership
print(find_membership(coordinator_address=None, num_processes=None, process_id=None, detect=True, timeout_seconds=5))
"""
    variables = {
        "JAX_FORCE_TPU_INIT": "1",
        "TPU_WORKER_HOSTNAMES": "pod-0.svc,pod-1.svc",
        "TPU_WORKER_ID": "1",
        # Else it is looked for in the virtual machine's metadata.
        "MEGASCALE_COORDINATOR_ADDRESS": "pod-0.svc",
        "MEGASCALE_NUM_SLICES": "1",
        "MEGASCALE_SLICE_ID": "0",
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'pod-0.svc:8482', num_processes=2, process_id=1" in done.stdout


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"num_processes": 2},
            r"coordinator_address and distributed.process_id must be given as well, because",
        ),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2},
            r"process_id=2 must be below distributed.num_processes=2: the processes are numbered from 0",
        ),
        ({"coordinator_address": "host", "num_processes": 2, "process_id": 0}, r"=host must be the host of process 0"),
        ({"coordinator_address": ":12", "num_processes": 2, "process_id": 0}, r"=:12 must be the host of process 0"),
        ({"coordinator_address": "a:0", "num_processes": 2, "process_id": 0}, r"=a:0 must be the host of process 0"),
    ],
)
def test_incomplete_and_impossible_settings_are_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        find(**changes)


def test_a_cluster_that_does_not_answer_is_a_sentence(monkeypatch):
    for variable, value in CLUSTERS["slurm"][0].items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("SLURM_NTASKS", "many")
    with pytest.raises(InputError, match=r"seems to be part of a cluster, but .*many.*; give distributed.coord"):
        find()


def test_a_kubernetes_job_without_the_package_that_asks_is_not_left_alone(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert find() is None  # A pod that is no part of an indexed job.
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    with pytest.raises(InputError, match=r"`kubernetes` package is not installed.*distributed.detect=false"):
        find()
