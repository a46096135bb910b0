#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice: makes the slice, copies this checkout to every host, and starts one process a host,
# which find each other by jax's own detection. Run it again to go on after a preemption.
#
# Usage: PROJECT=p ZONE=z RUN_DIR=/mnt/shared/runs/a deploy/tpu_pod.sh --config configs/quickstart.yaml [--a.b value ...]
# RUN_DIR must be on a file system that every host mounts at the same path, such as Filestore.
set -euo pipefail
: "${PROJECT:?the Google Cloud project}" "${ZONE:?such as us-central2-b}" "${RUN_DIR:?a directory that all hosts share}"
NAME=${NAME:-atkd}
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5litepod-16}
RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}
where=(--project="$PROJECT" --zone="$ZONE")

cd "$(dirname "$0")/.."
if ! gcloud compute tpus tpu-vm describe "$NAME" "${where[@]}" >/dev/null 2>&1; then
  gcloud compute tpus tpu-vm create "$NAME" "${where[@]}" \
    --accelerator-type="$ACCELERATOR_TYPE" --version="$RUNTIME_VERSION"
fi
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$NAME:atkd_jax.tar.gz" "${where[@]}" --worker=all

words=$(printf '%q ' train "--run_dir=$RUN_DIR" "$@")
gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="
  set -e
  mkdir -p atkd_jax && tar -xzf atkd_jax.tar.gz -C atkd_jax && cd atkd_jax
  test -x .venv/bin/python || python3 -m venv .venv
  .venv/bin/pip install --quiet --constraint constraints.txt --editable '.[gguf]' 'jax[tpu]'
  .venv/bin/python launch.py $words"
