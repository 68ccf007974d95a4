"""Fully sharded models (FSDP2) over two processes against one whole model: on the CPU, and on two GPUs if there are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from processes import torchrun

SCRIPT = """
import copy, os, json, sys
import torch, torch.distributed as dist, torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
sys.path.insert(0, sys.argv[1])
from gradmod import AGM, OGMGE, ModulatedModel
from networks import NAMES, batch, network

TWO, device = NAMES[:2], sys.argv[2]
dist.init_process_group("gloo" if device == "cpu" else "nccl")
rank = dist.get_rank()
if device == "cuda":
    torch.cuda.set_device(rank)
mesh = init_device_mesh(device, (2,))
apart = {}
for strategy, late in (("looped", False), ("batched", False), ("reuse", False), ("additive", True)):
    for method in (AGM(TWO, alpha=1.3), OGMGE(TWO, noise=False)):
        net = network(TWO, late=late, layer="layer-norm").to(device)
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        whole = ModulatedModel(copy.deepcopy(net), copy.deepcopy(method), coalitions=strategy).to(device)
        sharded = ModulatedModel(net, method, coalitions=strategy).to(device)
        for encoder in net.encoders.values():
            fully_shard(encoder, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (whole, sharded)]
        for seed in range(4):
            inputs, target = batch(TWO, 8, 3, seed=seed)
            inputs, target = {m: x.to(device) for m, x in inputs.items()}, target.to(device)
            rows = slice(4 * rank, 4 * rank + 4)
            F.cross_entropy(whole(inputs, target), target).backward()
            F.cross_entropy(sharded({m: x[rows] for m, x in inputs.items()}, target[rows]), target[rows]).backward()
            for model, optimizer in zip((whole, sharded), optimizers):
                model.after_backward()
                optimizer.step()
                optimizer.zero_grad()
        key = f"{strategy} {type(method).__name__}"
        coefficients = (whole.last_step.coefficients - sharded.last_step.coefficients).abs().max()
        assert len(whole.last_step.coefficients.unique()) > 1, "nothing was modulated"
        pairs = zip(whole.parameters(), sharded.parameters())
        parameters = max((a - b.full_tensor()).abs().max() for a, b in pairs)
        apart[key] = [coefficients.item(), parameters.item()]
if rank == 0:
    print(json.dumps(apart))
dist.barrier()
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # torch's own threads abort a process now and then that ends in the usual way
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
        ),
    ],
)
def test_sharded_over_two_processes_equals_whole(device: str, tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SCRIPT)
    words = [*torchrun(), str(script), str(Path(__file__).parent), device]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    apart = json.loads(done.stdout.splitlines()[-1])
    assert len(apart) == 8
    for name, (coefficients, parameters) in apart.items():
        assert coefficients < 1e-12, name
        assert parameters < 1e-12, name
