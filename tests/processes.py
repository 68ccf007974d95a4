"""Several connected processes of one machine, for tests: forked from one that has imported everything already."""

from __future__ import annotations

import datetime
import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "torch.nn.parallel", "gradmod", "networks"])
PATIENCE = 120


def on_processes(function: Callable[[int], Any], world: int, folder: Path) -> list[Any]:
    """What `function(rank)` returns on each of `world` processes, connected by gloo; it must be a module's own.

    A process that raises ends the others, and its traceback is the test's.
    """
    results = CONTEXT.Queue()
    store = str(folder / "store")
    processes = [
        CONTEXT.Process(target=_run, args=(function, rank, world, store, results), daemon=True) for rank in range(world)
    ]
    for process in processes:
        process.start()
    try:
        found = [results.get(timeout=PATIENCE) for _ in processes]
        for _, _, error in found:
            assert error is None, error
        return [result for _, result, _ in sorted(found, key=lambda one: int(one[0]))]
    finally:
        for process in processes:
            process.join(1)
            process.kill()


def _run(function: Callable[[int], Any], rank: int, world: int, store: str, results: Any) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(store, world),
            rank=rank,
            world_size=world,
            timeout=datetime.timedelta(seconds=PATIENCE / 2),
        )
        result = function(rank)
        dist.barrier()
        dist.destroy_process_group()
    except Exception:
        results.put((rank, None, f"process {rank}: {traceback.format_exc()}"))
    else:
        results.put((rank, result, None))
