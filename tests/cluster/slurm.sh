#!/bin/bash
# A cluster of one node with SLURM from Debian's packages, and the launchers on it: a sweep, a SUPERB task, a job that is
# cancelled, one that is preempted, a partition that is full.
#
#   sudo apt-get install -y --no-install-recommends slurm-wlm munge
#   tests/cluster/slurm.sh [PYTHON]          as root, in a machine or container of its own; everything on loopback
#
# Its daemons end with it. There is no accounting database, so `sacct`, which submitit asks, is answered out of squeue.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${1:-$ROOT/.venv/bin/python}
WORK=$(mktemp -d)
HOST=$(hostname -s)
export SLURM_CONF=$WORK/slurm.conf OMP_NUM_THREADS=1 PYTHONPATH=$ROOT PYTHONWARNINGS=ignore XDG_CACHE_HOME=$WORK/cache
FAILED=0

say() { echo "== $*"; }
check() { if eval "$2"; then echo "ok: $1"; else echo "FAILED: $1 ($2)"; FAILED=1; fi; }
finish() {
    scancel --me 2> /dev/null || true
    for daemon in slurmd slurmctld munged; do
        [ -f "$WORK/$daemon.pid" ] && kill "$(cat "$WORK/$daemon.pid")" 2> /dev/null || true
    done
    [ "$FAILED" = 0 ] && rm -rf "$WORK" || echo "logs stay in $WORK"
}
trap finish EXIT

say "munge"
chmod 755 "$WORK"
mkdir -p "$WORK/munge" "$WORK/state" "$WORK/spool" "$WORK/bin"
dd if=/dev/urandom of="$WORK/munge/key" bs=1024 count=1 2> /dev/null
chmod 700 "$WORK/munge"; chmod 400 "$WORK/munge/key"
munged --force --key-file="$WORK/munge/key" --socket="$WORK/munge/socket" --pid-file="$WORK/munged.pid" \
    --log-file="$WORK/munge/log" --seed-file="$WORK/munge/seed"
munge --socket="$WORK/munge/socket" -n | unmunge --socket="$WORK/munge/socket" > /dev/null

say "slurm on $HOST"
cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$WORK/munge/socket
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmdPidFile=$WORK/slurmd.pid
SlurmctldLogFile=$WORK/slurmctld.log
SlurmdLogFile=$WORK/slurmd.log
StateSaveLocation=$WORK/state
SlurmdSpoolDir=$WORK/spool
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
MinJobAge=3600
KillWait=20
SchedulerParameters=bf_interval=2,sched_min_interval=500000
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=$HOST Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
PartitionName=spare Nodes=$HOST MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
CONF
cat > "$WORK/bin/sacct" <<'SACCT'
#!/bin/bash
echo "JobID|State|NodeList|"
for job in $(echo "$*" | grep -oE '\-j [0-9_]+' | cut -d' ' -f2 | sort -u); do squeue -h -t all -j "$job" -o '%i|%T|%N|' 2> /dev/null; done
SACCT
chmod +x "$WORK/bin/sacct"
export PATH=$WORK/bin:$PATH
slurmctld; slurmd
for _ in $(seq 60); do sinfo -h -o %T 2> /dev/null | grep -q idle && break; sleep 1; done
sinfo

say "recordings, a teacher, tones for keyword spotting"
cd "$WORK"
PYTHONPATH=$ROOT:$ROOT/tests "$PYTHON" - <<'PREPARE'
from pathlib import Path
from hostile.kills import prepare
prepare(Path("small"))
from tests.superb.test_superb_with_s3prl import write_tones
write_tones(Path("tones"))
PREPARE
SHARED="teacher=small/teacher.safetensors data.train=small/speech data.batch_utterances=4 data.max_seconds=0.15
 data.workers=0 run.device=cpu run.log_every=2 run.checkpoint_every=5 second_stage.steps=4 sparsity.may_miss=true"
CLI="$PYTHON -m pruned_upstream.cli"
HERE="--slurm cpus_per_task=1 --slurm mem_gb=0"

say "sweep --launcher slurm"
$CLI sweep demo $SHARED optimisation.steps=12 run.folder="$WORK/sweep" --sparsity 0.3,0.5 --launcher slurm \
    --slurm slurm_partition=main $HERE 2>&1 | tail -15
check "two points are finished" '[ "$(find sweep -name compact.safetensors | wc -l)" = 2 ]'
squeue -h -t all -o '%i %j %T'

say "superb --launcher slurm"
$CLI superb small/model.safetensors --output "$WORK/superb" --data tones --tasks ks --steps 4 --loader-workers 0 --launcher slurm \
    --slurm slurm_partition=main $HERE 2>&1 | tail -15
check "ks has a result" 'grep -q "ks:" superb/results.yaml'

say "a cancelled job, and the same command again"
LONG="$SHARED optimisation.steps=400 run.checkpoint_every=20"
$CLI sweep demo $LONG run.folder="$WORK/cancelled" --sparsity 0.5 --launcher slurm --slurm slurm_partition=main $HERE \
    > cancelled.log 2>&1 & SWEEP=$!
for _ in $(seq 120); do find cancelled -name state.pt 2> /dev/null | grep -q . && break; sleep 1; done
scancel "$(squeue -h -t running -o %A | head -1)"
wait $SWEEP || true
tail -4 cancelled.log
check "a state was saved" 'find cancelled -name state.pt | grep -q .'
$CLI sweep demo $LONG run.folder="$WORK/cancelled" --sparsity 0.5 --launcher slurm --slurm slurm_partition=main $HERE \
    2>&1 | tail -4
check "the same command finished it" 'find cancelled -name compact.safetensors | grep -q .'
check "from a saved step" 'grep -hoE "\"from_step\": [0-9]+" $(find cancelled -name launches.json) | grep -qv ": 0$"'

say "a preempted job: saved, requeued, finished"
$CLI sweep demo $LONG run.folder="$WORK/preempted" --sparsity 0.5 --launcher slurm --slurm slurm_partition=spare $HERE \
    > preempted.log 2>&1 & SWEEP=$!
for _ in $(seq 120); do find preempted -name state.pt 2> /dev/null | grep -q . && break; sleep 1; done
sbatch -p main --exclusive -t 5 --wrap "sleep 20" | tail -1
wait $SWEEP || true
tail -4 preempted.log
check "it finished" 'find preempted -name compact.safetensors | grep -q .'
check "in more than one launch" '[ "$(grep -ho from_step $(find preempted -name launches.json) | wc -l)" -ge 2 ]'
check "from a saved step" 'grep -hoE "\"from_step\": [0-9]+" $(find preempted -name launches.json) | grep -qv ": 0$"'

say "a full partition: the job waits and then runs"
sbatch -p main --exclusive -t 5 --wrap "sleep 25" | tail -1
$CLI sweep demo $SHARED optimisation.steps=12 run.folder="$WORK/full" --sparsity 0.5 --launcher slurm \
    --slurm slurm_partition=main $HERE > full.log 2>&1 & SWEEP=$!
sleep 12; squeue -o '%i %P %T %r'
check "it waits" 'squeue -h -t pending | grep -q .'
wait $SWEEP || true
check "then it finished" 'find full -name compact.safetensors | grep -q .'

[ "$FAILED" = 0 ] && say "all as it should be"
exit "$FAILED"
