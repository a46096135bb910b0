"""The templates under deploy/ are sound shell and YAML, and start what launch.py understands."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from atkd_jax.commands.verbs import parse_verb

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted((ROOT / "deploy").glob("*.sh"))
RECORD = '#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >> "$RECORD"\nprintf "\\n\\0" >> "$RECORD"\n'


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    tool = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([tool, "--enable=all", "--exclude=SC2250,SC2312", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def run_with(tmp_path):
    """Runs a script with stand-ins for its commands, and returns the words that each was called with."""

    def run(script, commands, words, **variables):
        for name in commands:
            (tmp_path / name).write_text(RECORD)
            (tmp_path / name).chmod(0o755)
        record = tmp_path / "record"
        variables |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "RECORD": str(record)}
        done = subprocess.run(
            ["bash", ROOT / "deploy" / script, *words],
            env=os.environ | variables,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return [call.split("\0")[:-1] for call in record.read_text().split("\n\0")[:-1]]

    return run


def understood(command):
    """The options of the launch.py within a shell's command line."""
    verb, *words = shlex.split(command.partition("launch.py")[2])
    return parse_verb(verb, words).settings


CONFIG = ["--config", str(ROOT / "configs" / "quickstart.yaml"), "--training.steps", "7"]
CLOUD = {"PROJECT": "p", "ZONE": "z", "RUN_DIR": "/shared/a b"}


def test_the_tpu_pod_starts_one_process_on_every_host(run_with):
    calls = run_with("tpu_pod.sh", ["gcloud"], CONFIG, **CLOUD)
    (ssh,) = (call for call in calls if "ssh" in call)
    assert {"--worker=all", "--project=p", "--zone=z"} <= set(ssh)
    (command,) = (word for word in ssh if word.startswith("--command="))
    settings = understood(command)
    assert (settings.training.steps, settings.run_dir) == (7, Path("/shared/a b"))


def test_xpk_starts_the_run(run_with):
    (call,) = run_with("tpu_xpk.sh", ["xpk"], CONFIG, **CLOUD, CLUSTER="c", BASE_IMAGE="i")
    assert call[:2] == ["workload", "create"]
    (command,) = (word for word in call if word.startswith("--command="))
    assert understood(command).run_dir == Path("/shared/a b")


def test_slurm_starts_a_process_for_each_task(run_with):
    (call,) = run_with("slurm_gpu.sh", ["srun"], CONFIG, SLURM_SUBMIT_DIR=str(ROOT))
    assert "--kill-on-bad-exit=1" in call
    assert understood(shlex.join(call)).training.steps == 7


# The fields of JobSet's own objects, and whether they must be there (kubernetes-sigs/jobset at 0336a8f,
# api/jobset/v1alpha2/jobset_types.go); what is within a template is a Job of Kubernetes.
JOBSET = {
    "": {"apiVersion": True, "kind": True, "metadata": True, "spec": True},
    "spec": {"replicatedJobs": True}
    | dict.fromkeys(
        (
            "network", "successPolicy", "failurePolicy", "startupPolicy", "suspend", "coordinator", "managedBy",
            "ttlSecondsAfterFinished", "volumeClaimPolicies",
        ),
        False,
    ),
    "spec.replicatedJobs": {"name": True, "template": True, "groupName": False, "replicas": False, "dependsOn": False},
    "spec.failurePolicy": {"maxRestarts": False, "restartStrategy": False, "rules": False},
    "spec.network": {"enableDNSHostnames": False, "subdomain": False, "publishNotReadyAddresses": False},
    "spec.coordinator": {"replicatedJob": True, "jobIndex": False, "podIndex": False},
    "spec.successPolicy": {"operator": True, "targetReplicatedJobs": False},
    "spec.startupPolicy": {"startupPolicyOrder": True},
}  # fmt: skip


def wrong_fields(node, path=""):
    """The fields that JobSet does not know, or wants and are not there, by their dotted names."""
    if path not in JOBSET:
        return []
    if isinstance(node, list):
        return [wrong for each in node for wrong in wrong_fields(each, path)]
    known = JOBSET[path]
    missing = {name for name, is_needed in known.items() if is_needed} - set(node)
    wrong = [f"{path}.{name}".strip(".") for name in sorted(set(node) - set(known) | missing)]
    for name, value in node.items():
        wrong += wrong_fields(value, f"{path}.{name}".strip("."))
    return wrong


def test_the_jobsets_job_is_kubernetes_and_starts_all_its_processes():
    jobset = yaml.safe_load((ROOT / "deploy" / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert wrong_fields(jobset) == []
    assert isinstance(jobset["spec"]["failurePolicy"]["maxRestarts"], int)
    (group,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
    kubernetes_validate.validate(job, "1.34", strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    settings = understood(container["args"][0].replace('"$JOB_COMPLETION_INDEX"', "1"))
    count = job["spec"]["parallelism"]
    assert count == job["spec"]["completions"] == settings.distributed.num_processes
    name = f"{jobset['metadata']['name']}-{group['name']}-0-0.{jobset['metadata']['name']}"
    assert settings.distributed.coordinator_address == f"{name}:{container['ports'][0]['containerPort']}"


def test_a_misspelt_field_of_a_jobset_would_be_found():
    spec = {"failurePolicy": {"maxRestart": 2}, "replicatedJobs": [{"name": "a", "templates": {}}]}
    found = wrong_fields({"apiVersion": "", "kind": "", "metadata": {}, "spec": spec, "network": {}})
    assert found == [
        "network",
        "spec.failurePolicy.maxRestart",
        "spec.replicatedJobs.template",
        "spec.replicatedJobs.templates",
    ]


def test_a_job_with_a_misspelt_field_would_be_found():
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"paralelism": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.34", strict=True)
