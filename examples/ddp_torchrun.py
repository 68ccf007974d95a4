"""AGM in DistributedDataParallel under torchrun; network and data are those of plain_loop.py.

torchrun --standalone --nproc-per-node 2 examples/ddp_torchrun.py
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from gradmod import AGM, ModulatedModel
from plain_loop import Net, data


def main(epochs: int, save: str) -> None:
    """Train; the first process saves the network."""
    dist.init_process_group()  # NCCL with GPUs, gloo without
    device = (
        torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    torch.manual_seed(0)
    model = ModulatedModel(Net(), AGM(modalities=("audio", "visual"), alpha=1.0)).to(device)
    parallel = DistributedDataParallel(model)  # around the ModulatedModel, not inside it
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    sampler = DistributedSampler(data(), shuffle=False)
    loader = DataLoader(data(), batch_size=64 // dist.get_world_size(), sampler=sampler)
    for epoch in range(epochs):
        for batch in loader:
            audio, visual, target = (part.to(device) for part in batch)
            inputs = {"audio": audio, "visual": visual}
            loss = F.cross_entropy(parallel(inputs, target), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if dist.get_rank() == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    if dist.get_rank() == 0 and save:
        torch.save(model.state_dict(), save)
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--save", default="", help="file of the trained state")
    settings = parser.parse_args()
    main(settings.epochs, settings.save)
