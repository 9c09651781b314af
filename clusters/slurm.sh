#!/usr/bin/env bash
#SBATCH --job-name=jasper
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gres=gpu:4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%j.log
# A Ray cluster for the length of a Slurm job, and one of our jobs on it. From the repository's root:
#
#   sbatch --nodes=4 --gres=gpu:8 clusters/slurm.sh python -m jobs.train CONFIG.yaml cluster.num_workers=32 cluster.use_gpu=true
#
# One Ray node per Slurm node, the first is the head and works too. All see the same folder and the same Python (shared file
# system), which must be first on the PATH. A job that Slurm stops goes on from its last checkpoint when it is requeued.
set -euo pipefail
[ $# -gt 0 ] || { echo "error: say what to run: sbatch clusters/slurm.sh python -m jobs.train CONFIG.yaml" >&2; exit 2; }

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
gpus=${SLURM_GPUS_ON_NODE:-0}
# A token for this job only, in a file that only its owner reads; never in the environment of others or in a log.
umask 077
token=$(mktemp -d "${JASPER_SLURM_DIR:-$HOME}/.jasper-ray-XXXXXX")
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$token/auth_token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token/auth_token RAY_USAGE_STATS_ENABLED=0
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# Sockets have short names, and two jobs on one node must not meet.
temp=/tmp/ray-$SLURM_JOB_ID

steps=()
finish() {
    trap - EXIT TERM INT
    # Slurm ends the processes of a step with it; nothing else of Ray on these nodes is touched.
    [ ${#steps[@]} -eq 0 ] || kill "${steps[@]}" 2>/dev/null || true
    wait "${steps[@]}" 2>/dev/null || true
    rm -rf -- "$token"
}
trap finish EXIT
trap 'exit 143' TERM INT

address=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
start=(ray start --block --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="$gpus")
[ -z "${JASPER_OBJECT_STORE_BYTES:-}" ] || start+=(--object-store-memory="$JASPER_OBJECT_STORE_BYTES")

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    "${start[@]}" --head --port="$port" --node-ip-address="$address" --temp-dir="$temp" \
    --dashboard-host=127.0.0.1 --dashboard-port=$((port + 10000)) &
steps+=($!)
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        bash -c 'until "$@"; do sleep 2; done' start "${start[@]}" --address="$address:$port" &
    steps+=($!)
fi

export RAY_ADDRESS=$address:$port
for _ in $(seq 120); do
    nodes=$(python - <<'PYTHON' 2>/dev/null || echo 0
import ray
ray.init(logging_level="ERROR", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
PYTHON
    )
    [ "$nodes" -ge "$SLURM_JOB_NUM_NODES" ] && break
    sleep 2
done
if [ "$nodes" -lt "$SLURM_JOB_NUM_NODES" ]; then
    echo "error: $nodes of $SLURM_JOB_NUM_NODES nodes joined the cluster at $RAY_ADDRESS in time" >&2
    exit 1
fi
echo "$nodes nodes at $RAY_ADDRESS"
# In the background: bash runs a trap only between commands.
"$@" &
job=$!
trap 'kill -TERM $job 2>/dev/null; wait $job; exit 143' TERM INT
wait $job
