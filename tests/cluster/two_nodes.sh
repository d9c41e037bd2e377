#!/bin/bash
# torchrun over two nodes that are two network namespaces of this machine, against one process with the same batches.
#
#   tests/cluster/two_nodes.sh [PYTHON]      as root; ip (iproute2) is needed; nothing leaves the machine
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${1:-$ROOT/.venv/bin/python}
WORK=$(mktemp -d)
A=pu_a_$$ B=pu_b_$$
export OMP_NUM_THREADS=1 PYTHONPATH=$ROOT PYTHONWARNINGS=ignore
trap 'ip netns del $A 2> /dev/null || true; ip netns del $B 2> /dev/null || true; rm -rf "$WORK"' EXIT

ip netns add $A; ip netns add $B
ip link add va_$$ type veth peer name vb_$$
ip link set va_$$ netns $A; ip link set vb_$$ netns $B
ip -n $A addr add 10.77.0.1/24 dev va_$$; ip -n $B addr add 10.77.0.2/24 dev vb_$$
for side in "$A va_$$" "$B vb_$$"; do set -- $side; ip -n "$1" link set "$2" up; ip -n "$1" link set lo up; done

cd "$WORK"
PYTHONPATH=$ROOT:$ROOT/tests "$PYTHON" -c 'from pathlib import Path; from hostile.kills import prepare; prepare(Path("small"))'
RECIPE="prune demo teacher=small/teacher.safetensors data.train=small/speech data.batch_utterances=4 data.max_seconds=0.15
 data.workers=0 optimisation.steps=12 run.device=cpu run.log_every=1 second_stage.steps=4 sparsity.may_miss=true"
TORCHRUN="-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29777"
GLOO_SOCKET_IFNAME=va_$$ ip netns exec $A "$PYTHON" $TORCHRUN --node-rank 0 --local-addr 10.77.0.1 -m pruned_upstream.cli $RECIPE \
    run.folder=two > a.log 2>&1 & FIRST=$!
GLOO_SOCKET_IFNAME=vb_$$ ip netns exec $B "$PYTHON" $TORCHRUN --node-rank 1 --local-addr 10.77.0.2 -m pruned_upstream.cli $RECIPE \
    run.folder=two > b.log 2>&1 & SECOND=$!
wait $FIRST || { tail -20 a.log; exit 1; }
wait $SECOND || { tail -20 b.log; exit 1; }
"$PYTHON" -m pruned_upstream.cli $RECIPE run.folder=one > one.log 2>&1 || { tail -20 one.log; exit 1; }

"$PYTHON" - <<'COMPARE'
import json
import sys

def losses(folder):
    rows = [json.loads(line) for line in open(f"{folder}/metrics.jsonl")]
    return {(row["step"], name): row[name] for row in rows for name in row if name in ("distillation", "loss")}

one, two = losses("one"), losses("two")
processes = json.load(open("two/launches.json"))[0]["processes"]
worst = max(abs(two[key] - value) / abs(value) for key, value in one.items())
print(f"{processes} processes on two nodes; {len(one)} losses; largest relative difference from one process {worst:.1e}")
sys.exit(0 if processes == 2 and one.keys() == two.keys() and worst < 1e-4 else 1)
COMPARE
