#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster with XPK, which packs this checkout into an image on top of BASE_IMAGE and
# starts a JobSet of one process a host.
#
# Usage: PROJECT=p ZONE=z CLUSTER=c BASE_IMAGE=i RUN_DIR=/shared/a deploy/tpu_xpk.sh --config configs/quickstart.yaml ...
# BASE_IMAGE holds Python, jax[tpu] and this package's dependencies. RUN_DIR lies in storage that was attached to the
# cluster with `xpk storage attach`, under the same path in every pod.
set -euo pipefail
: "${PROJECT:?the Google Cloud project}" "${ZONE:?where the cluster is}" "${CLUSTER:?made by xpk cluster create}"
: "${BASE_IMAGE:?an image with jax[tpu] and the dependencies}" "${RUN_DIR:?a directory that all pods share}"
cd "$(dirname "$0")/.."
words=$(printf '%q ' train "--run_dir=$RUN_DIR" "$@")
xpk workload create \
  --project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER" \
  --workload="${NAME:-atkd}" --tpu-type="${TPU_TYPE:-v5litepod-16}" --num-slices="${NUM_SLICES:-1}" \
  --max-restarts="${MAX_RESTARTS:-10}" --base-docker-image="$BASE_IMAGE" --script-dir=. \
  --command="python3 launch.py $words"
