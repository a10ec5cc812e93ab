#!/bin/bash
# sbatch cluster/slurm.sh configs/wan2.1_1.3b/dmd.yaml model.path=/shared/models/Wan2.1-T2V-1.3B-Diffusers
#
# From the top of a checkout that all nodes see, after `make install` there, which ends in the one line
# `pip install -c constraints.txt .`. Edit the lines that say "yours". The same command again resumes the run. Near the
# time limit it saves, exits, and returns to the queue under the same job id; the same by hand:
# `scancel --batch --signal=TERM JOB`, and `scancel JOB` ends it for good, at its last checkpoint.
#
#SBATCH --job-name=ray_distill
#SBATCH --nodes=1                 # train.workers / GPUs of a node
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive               # Ray's ports are fixed: two clusters on a node would meet
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0                   # all memory: at 1.3B 8 workers load 68 GB, at 14B 686 GB
#SBATCH --time=24:00:00
# After a failed node or a preemption Slurm queues the job again, and it resumes. A preempted job saves first only where
# the site has PreemptParameters=send_user_signal and a GraceTime.
#SBATCH --requeue
#SBATCH --open-mode=append
# B: this script alone. Sent to all processes SIGTERM would end Ray on the nodes while the workers save.
#SBATCH --signal=B:TERM@600
set -euo pipefail
# shellcheck disable=SC1091
source .venv/bin/activate

shared=${SHARED:-/shared}         # yours: a file system that all nodes see
export RAY_DISTILL_OUTPUT_DIR=$shared/output
export RAY_DISTILL_DATA__CACHE_DIR=$shared/cache
export RAY_DISTILL_DATA__MANIFEST=$shared/videos/manifest.jsonl
export RAY_DISTILL_TRACK__URI=http://mlflow:5000   # yours

export RAY_AUTH_MODE=token        # the job's own token, in no file; srun takes it to the other nodes
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(python -c 'import secrets; print(secrets.token_hex(32))')}
export RAY_AUTH_TOKEN
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600   # nodes that share a file system import slowly; Ray waits for 30 s
export RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=600
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}               # a site's NCCL_SOCKET_IFNAME and NCCL_IB_* pass through, too

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}             # the first: this script runs there too
driver=$(mktemp)                  # its process id
stopping=
# shellcheck disable=SC2329  # the trap calls it
stop() {
    stopping=1
    kill -TERM "$(<"$driver")" 2>/dev/null || kill -TERM "$launcher" || true   # no driver yet, or none any more
}

# In the background, since bash runs a trap only between commands or in `wait`. The driver needs RAY_ADDRESS: without it
# train.py would start a Ray of its own. symmetric-run passes no signal on, hence the process id.
# shellcheck disable=SC2016  # the inner bash expands these
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
    ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_ON_NODE" -- \
    bash -c 'echo $$ >"$0"; export RAY_ADDRESS=$1; shift; exec python train.py "$@"' "$driver" "$head:6379" "$@" &
launcher=$!
trap stop TERM

code=0
wait "$launcher" || code=$?
if [[ $stopping ]]; then          # that wait ended with the signal; now for the save
    code=0
    wait "$launcher" || code=$?
    [[ $code == 0 ]] || scontrol requeue "$SLURM_JOB_ID"
fi
rm -f "$driver"
exit "$code"
