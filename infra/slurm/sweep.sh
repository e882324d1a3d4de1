#!/bin/bash
# Scaling sweep: submit the same training on several numbers of nodes and of frames per device, and evaluate it when all are done:
#   infra/slurm/sweep.sh config.yaml runs/sweep "1 2 4 6" "8 32" 4
#                        configuration, folder, nodes, frames per device, devices per node
# Every job runs SWEEP_STEPS (200) steps and logs every 20. Options of sbatch go into SWEEP_OPTIONS. Afterwards, per batch:
#   uv run cg-eval scaling runs/sweep/b8-n* -o runs/sweep/b8
set -euo pipefail
config=${1:?give the configuration, a folder, nodes, frames per device, devices per node}
folder=${2:?give the folder to write into}
nodes=${3:-1 2 4} batches=${4:-32} devices=${5:-1} steps=${SWEEP_STEPS:-200}
# SWEEP_SUBMIT=local runs one after the other on this machine, devices instead of nodes: mechanics, and GPUs of one node.
for batch in $batches; do
    for n in $nodes; do
        run="$folder/b$batch-n$n"
        options=("stages=[{steps: $steps}]" "frames_per_batch=$((batch * n * devices))" "log_every_steps=20"
            "validation.every_steps=$steps" "validation.max_frames=64" "checkpoints.every_steps=$((steps + 1))")
        if [ "${SWEEP_SUBMIT:-sbatch}" = local ]; then
            uv run cg-train run "$config" -o "$run" "${options[@]}" "devices=$((n * devices))"
        else
            # shellcheck disable=SC2086 # several options are meant
            sbatch --nodes="$n" ${SWEEP_OPTIONS:-} infra/slurm/train.sbatch "$config" -o "$run" "${options[@]}"
        fi
    done
done
