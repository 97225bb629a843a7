#!/bin/bash
# Prepare, train and evaluate as three jobs, each after the one before it has succeeded.
#   slurm/pipeline.sh --name NAME --data DIR [--out DIR] [--runs-dir DIR] [--dry-run]
#       [--prepare FLAGS] [--train FLAGS] [--evaluate FLAGS] [--resources SBATCH-FLAGS]
# FLAGS is one word in quotes, for example
#   slurm/pipeline.sh --name best --data data/fmnist --prepare '--dataset fmnist' \
#       --train '--preset article2018_best' --resources '--nodes=2 --gpus-per-node=4'
# Prints the ids of the jobs. --resources is for the training job; site.sh holds the rest.

set -euo pipefail
fail() { echo "pipeline.sh: $1 (its head says how)" >&2 && exit 2; }
name="" data="" out="" runs=runs dry=no prepare=() train=() evaluate=() resources=()
while (($#)); do
    [[ $1 == --dry-run || $# -gt 1 ]] || fail "$1: unknown, or without a value"
    case $1 in
        --dry-run) dry=yes && shift && continue ;;
        --name) name=$2 ;;
        --data) data=$2 ;;
        --out) out=$2 ;;
        --runs-dir) runs=$2 ;;
        --prepare) read -ra prepare <<< "$2" ;;
        --train) read -ra train <<< "$2" ;;
        --evaluate) read -ra evaluate <<< "$2" ;;
        --resources) read -ra resources <<< "$2" ;;
        *) fail "$1: unknown" ;;
    esac
    shift 2
done
[[ -n $name && -n $data ]] || fail "--name and --data are needed"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=slurm/site.sh
source "${VAE_DIST_SITE:-slurm/site.sh}"

submit() { # submit WHAT AFTER SBATCH-WORDS...: prints the new job's id
    local command=(sbatch --parsable)
    [[ -z $2 ]] || command+=(--dependency="afterok:$2" --kill-on-invalid-dep=yes)
    command+=("${@:3}")
    if [[ $dry == yes ]]; then
        echo "${command[*]@Q}" >&2 && echo "$1"
    else
        "${command[@]}"
    fi
}
first=$(submit PREPARE "" slurm/prepare.sbatch --out "$data" "${prepare[@]}")
second=$(submit TRAIN "$first" "${resources[@]}" slurm/train.sbatch \
    --data "$data" --name "$name" --runs-dir "$runs" "${train[@]}")
third=$(submit EVALUATE "$second" slurm/evaluate.sbatch \
    "${out:-eval/$name}" "$runs/$name" -- --data "$data" "${evaluate[@]}")
printf 'prepare %s\ntrain %s\nevaluate %s\n' "$first" "$second" "$third"
