#!/usr/bin/env bash
# Two "machines": network namespaces joined by a virtual cable, torchrun in each, one run of four processes. Needs root on Linux.
#
#     sudo bash benchmarks/two_machines.sh [python]      # default .venv/bin/python; writes benchmarks/results/two_machines.md
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${1:-.venv/bin/python}
OUT=$(mktemp -d)
export OMP_NUM_THREADS=1

clean() {
  ip netns del gradmod-a 2>/dev/null || true
  ip netns del gradmod-b 2>/dev/null || true
  rm -rf "$OUT"
}
trap clean EXIT
clean 2>/dev/null
mkdir -p "$OUT"

ip netns add gradmod-a
ip netns add gradmod-b
ip link add cable-a netns gradmod-a type veth peer name cable-b netns gradmod-b
for side in a b; do
  ip -n gradmod-$side address add 10.77.0.$([ $side = a ] && echo 1 || echo 2)/24 dev cable-$side
  ip -n gradmod-$side link set cable-$side up
  ip -n gradmod-$side link set lo up
done

FLAGS=(train --encoder mlp --width 16 --batch-size 107 --epochs 3 --log-every 1 --lr 0.05 --device cpu --out "$OUT")
TORCHRUN=(-m torch.distributed.run --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29500 --rdzv-id two-machines)

machine() { # side, its own address, whether the meeting point is on it
  ip netns exec "gradmod-$1" env GLOO_SOCKET_IFNAME="cable-$1" "$PYTHON" "${TORCHRUN[@]}" --local-addr "$2" \
    --rdzv-conf "is_host=$3" -m gradmod \
    "${FLAGS[@]}" --name two >"$OUT/$1.txt" 2>&1
}
machine a 10.77.0.1 1 &
FIRST=$!
machine b 10.77.0.2 0 || { cat "$OUT/b.txt"; exit 1; }
wait $FIRST || { cat "$OUT/a.txt"; exit 1; }
"$PYTHON" -m gradmod "${FLAGS[@]}" --name one >/dev/null 2>&1

CABLE=$(ip -n gradmod-a -s link show cable-a | awk '/RX:/ {getline; print $1}')
"$PYTHON" - "$OUT" "$CABLE" <<'PYTHON' | tee benchmarks/results/two_machines.md
import json, os, platform, sys
from pathlib import Path
import torch
from gradmod.experiments.runs.checkpoints import read_checkpoint

out, received = Path(sys.argv[1]), int(sys.argv[2])
runs = [read_checkpoint(out / name / "checkpoints" / "last.pt")["model"] for name in ("one", "two")]
largest = max(float((runs[0][key].double() - runs[1][key].double()).abs().max()) for key in runs[0])
lines = [[json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()] for name in ("one", "two")]
apart = max(
    abs(a["coefficients"][m] - b["coefficients"][m])
    for a, b in zip(*lines, strict=True) if a["kind"] == "step" for m in a["coefficients"]
)
print("# Two machines in network namespaces\n")
print("`sudo bash benchmarks/two_machines.sh`: AV-Digits, AGM, seed 0, 3 epochs, batches of 107 over four gloo processes, two behind each end of")
print("a virtual cable, meeting through torchrun's c10d rendezvous; beside it the same run on one process.\n")
print(f"- processes: {lines[1][0]['processes']}, on {os.cpu_count()} cores; torch {torch.__version__}, {platform.platform()}")
print(f"- received over the cable by the first machine: {received / 2**20:.1f} MiB")
print(f"- steps: {sum(line['kind'] == 'step' for line in lines[1])}; largest difference of a coefficient to one process: {apart:.1e}")
print(f"- largest difference of a parameter to one process: {largest:.1e}")
sys.exit(largest > 1e-6 or apart > 1e-6)
PYTHON
