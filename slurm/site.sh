# shellcheck shell=bash disable=SC1091,SC2034  # files of the site; variables for the scripts
# Settings of one site, read by every script here. Edit a copy and export VAE_DIST_SITE=/its/path.
# sbatch reads its own variables before a job starts: `source` the file once in your shell
# (pipeline.sh does it by itself), then sbatch as usual.

# Account, partition and the like, under sbatch's own names:
# export SBATCH_ACCOUNT=project SBATCH_PARTITION=gpu SBATCH_QOS=normal SBATCH_CONSTRAINT=h100

# Logs of the nodes, and the small files by which a job knows its own past:
LOG_DIR=${LOG_DIR:-slurm-logs}

# How many times a training job is requeued after running into its time limit:
MAX_TIMEOUTS=${MAX_TIMEOUTS:-20}

# Processes a node. Empty: one for each GPU that Slurm gave, and none without. Set it to train on CPUs.
RANKS_PER_NODE=${RANKS_PER_NODE:-}

# Words put before the program on each node, for example a container:
# CONTAINER=(apptainer exec --nv vae-dist.sif)
CONTAINER=()

# Further words for srun, for example --container-image=... of pyxis, or --cpu-bind=none:
SRUN_FLAGS=()

# Commands that make `python` the right one, run at the start of each job:
load_environment() {
    # module load cuda
    if [[ -f .venv/bin/activate ]]; then source .venv/bin/activate; fi
}

# Folder of the program's scripts, as the nodes (or the container) see it: launch/ of a checkout,
# else that of the installed package.
find_program() {
    [[ -n ${LAUNCH:-} || ! -f launch/train.py ]] || LAUNCH=launch
    LAUNCH=${LAUNCH:-$(python -c 'import launch; print(launch.__path__[0])')}
}

# The network (docs/slurm.md): which card, and who talks to whom.
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
