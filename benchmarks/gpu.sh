#!/usr/bin/env bash
# What only a GPU can show: the tests that need one, the cost of a step in each mode, how it grows, and AV-MNIST at its
# full size with two ResNet-18 under the authors' settings, joint training and AGM side by side.
#
#     bash benchmarks/gpu.sh RAW [EPOCHS]     # RAW: mnist/, fsdd/recordings/, noise/; writes benchmarks/results/*_cuda.*
#
# The folders of RAW are those of `gradmod prepare av-mnist --help`. EPOCHS is 20 unless given; the authors train 1,000.
set -euo pipefail
cd "$(dirname "$0")/.."
RAW=${1:?folder with mnist/, fsdd/recordings/ and noise/}
EPOCHS=${2:-20}
PYTHON=${PYTHON:-.venv/bin/python}
DATA=${DATA:-runs/data/av-mnist}

"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"; print(torch.cuda.get_device_name())'
"$PYTHON" -m pytest -m "slow or not slow" tests/test_wrapper.py tests/test_compile.py tests/test_precision.py \
  tests/test_sharded.py tests/training/test_distributed.py
"$PYTHON" benchmarks/step_cost.py --device cuda --modes eager compile bf16 compile+bf16
"$PYTHON" benchmarks/scaling.py --device cuda
[ -e "$DATA" ] || "$PYTHON" -m gradmod prepare av-mnist --mnist "$RAW/mnist" --speech "$RAW/fsdd/recordings" \
  --noise "$RAW/noise" --out "$DATA"
"$PYTHON" -m gradmod compare --preset avmnist-late --root "$DATA" --methods agm --seeds 0 --mono False \
  --epochs "$EPOCHS" --device cuda --name av-mnist-full
cp runs/av-mnist-full/table.md benchmarks/results/av_mnist_full_cuda.md
