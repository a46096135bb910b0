#!/usr/bin/env bash
# Trains on GPUs under Slurm: one process a GPU, which find each other by jax's own detection. Slurm sends SIGTERM two
# minutes before the time is over; the run is saved then, and the job is put into the queue again.
#
# Usage: sbatch --nodes=2 deploy/slurm_gpu.sh --config configs/quickstart.yaml --run_dir /shared/runs/a
#SBATCH --job-name=atkd
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
code=0
# One process that fails ends the others, which would wait for it.
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" launch.py train "$@" || code=$?
if [[ "$code" -eq 143 ]]; then
  scontrol requeue "${SLURM_JOB_ID:?set by Slurm}"
fi
exit "$code"
