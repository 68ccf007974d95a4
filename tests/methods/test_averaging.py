"""Over which processes scores are averaged: uneven batches, one process alone, a part of the processes, shards."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradmod import AGM, OGMGE, Method, ModulatedModel
from gradmod.methods.averaging import _mesh_groups
from networks import NAMES, batch, network
from processes import on_processes

TWO = NAMES[:2]
KINDS: tuple[Any, ...] = (AGM, OGMGE)
Batch = tuple[dict[str, Tensor], Tensor]


def samples_of(step: int, ranks: Sequence[int]) -> Batch:
    """The samples of a step of some processes, which have 5, 6, ... each."""
    parts = [batch(TWO, 5 + rank, 3, seed=100 * step + rank) for rank in ranks]
    return {m: torch.cat([x[m] for x, _ in parts]) for m in TWO}, torch.cat([y for _, y in parts])


def made(kind: type[Method], layer: str = "layer-norm") -> ModulatedModel:
    net = network(TWO, late=False, layer=layer)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return ModulatedModel(net, kind(TWO, alpha=1.7))  # type: ignore[call-arg]


def alone(kind: type[Method]) -> ModulatedModel:
    model = made(kind)
    model.method.use_process_group(None)
    return model


def loss_of(model: Any, inputs: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs, target), target, reduction="sum")


def scores_of(called: Any, model: ModulatedModel, batch: Batch) -> list[float]:
    """Of one step up to the gradients."""
    loss_of(called, *batch).backward()
    assert model.last_step is not None
    assert model.last_step.scores is not None
    found: list[float] = model.last_step.scores.tolist()
    return found


def apart(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def train_in_join(rank: int) -> dict[str, list[float]]:
    """Three rounds in which one of two processes runs out of batches, against the same on one process."""
    found = {}
    warnings.simplefilter("ignore", FutureWarning)  # of broadcast_buffers
    for kind in KINDS:
        for broadcast in (True, False):
            whole, model = alone(kind), made(kind)
            ddp = DistributedDataParallel(model, broadcast_buffers=broadcast)
            coefficients = 0.0
            for epoch, steps in enumerate(((3, 5), (4, 2), (2, 2))):
                # One that ran out gets the last one's weights, but not the optimizer's momentum: start anew.
                ours, theirs = (
                    torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, whole)
                )
                seen = []
                with ddp.join(divide_by_initial_world_size=True):
                    for step in range(steps[rank]):
                        ours.zero_grad()
                        loss_of(ddp, *samples_of(10 * epoch + step, (rank,))).backward()
                        model.after_backward()
                        ours.step()
                        assert model.last_step is not None
                        seen.append(model.last_step.coefficients)
                for step in range(max(steps)):
                    still = [one for one in (0, 1) if step < steps[one]]
                    theirs.zero_grad()
                    (loss_of(whole, *samples_of(10 * epoch + step, still)) / 2).backward()
                    whole.after_backward()
                    theirs.step()
                    assert whole.last_step is not None
                    for one in seen[step : step + 1]:
                        coefficients = max(
                            coefficients, float((one - whole.last_step.coefficients).abs().max())
                        )
            assert len(torch.stack(seen).unique()) > 1, "nothing was modulated"
            found[f"{kind.__name__} {broadcast}"] = [coefficients, apart(model, whole)]
    found["pickled"] = [apart(pickle.loads(pickle.dumps(ddp)).module, model)]
    return found


def test_uneven_batches_in_join_equal_one_process() -> None:
    """Coefficients, weights, statistics, OGM-GE's noise; with DDP's broadcast of buffers and without."""
    for found in on_processes(train_in_join, 2):
        assert len(found) == 5
        for name, differences in found.items():
            assert max(differences) < 1e-12, name


def train_parts(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    warnings.simplefilter("error", UserWarning)
    if rank == 0:  # alone, while the others are elsewhere
        for kind in KINDS:
            silent, loud = alone(kind), made(kind)
            found[f"{kind.__name__} alone"] = scores_of(silent, silent, samples_of(0, (0,)))
            assert scores_of(copied := copy.deepcopy(silent), copied, samples_of(0, (0,)))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found[f"{kind.__name__} unsaid"] = scores_of(loud, loud, samples_of(0, (0,)))
                scores_of(loud, loud, samples_of(0, (0,)))
            found[f"{kind.__name__} warnings"] = [str(warning.message) for warning in caught]
    dist.barrier()
    pair = dist.new_group([0, 1])
    if rank < 2:
        model = made(AGM)
        found["DDP"] = scores_of(
            DistributedDataParallel(model, process_group=pair), model, samples_of(1, (rank,))
        )
        model = made(AGM)
        model.method.use_process_group(pair)
        found["by hand"] = scores_of(model, model, samples_of(1, (rank,)))
    dist.barrier()
    model = made(AGM)
    ddp = DistributedDataParallel(Outer(model))
    found["all"] = scores_of(ddp, model, samples_of(1, (rank,)))
    with ddp.no_sync():
        found["all again"] = scores_of(ddp, model, samples_of(1, (rank,)))
    other = made(AGM)
    ddp.module.hidden = [other]  # no part of the module, but called inside its forward
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores_of(ddp, other, samples_of(1, (rank,)))
    found["not in DDP"] = len(caught)
    return found


class Outer(nn.Module):
    """A user's module around the model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.hidden: list[nn.Module] = []

    def forward(self, inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        for other in self.hidden:
            other(inputs, target)
        logits: Tensor = self.inner(inputs, target)
        return logits


def test_scores_are_averaged_over_the_processes_that_train_the_model() -> None:
    every = on_processes(train_parts, 3)

    def expected(ranks: Sequence[int], kind: type[Method] = AGM, step: int = 1) -> Any:
        return pytest.approx(
            scores_of(model := made(kind), model, samples_of(step, ranks)), rel=1e-12
        )

    for kind in KINDS:
        for how in ("alone", "unsaid"):
            assert every[0][f"{kind.__name__} {how}"] == expected((0,), kind, 0)
        (message,) = every[0][f"{kind.__name__} warnings"]
        assert "3 processes are connected" in message
        assert "use_process_group(None)" in message
    for found in every[:2]:
        assert found["DDP"] == found["by hand"] == expected((0, 1))
    for found in every:
        assert found["all"] == found["all again"] == expected((0, 1, 2))
        assert found["not in DDP"] == 1


def train_shards(rank: int) -> dict[str, float]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    found = {}
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    mine = range(rank // 2 * 2, rank // 2 * 2 + 2)
    for name, part, ranks in (("both axes", mesh, range(4)), ("one axis", mesh["shard"], mine)):
        model, whole = made(AGM), alone(AGM)
        for encoder in model.model.encoders.values():  # type: ignore[operator, union-attr]
            fully_shard(encoder, mesh=part)
        if name == "both axes":
            fully_shard(model, mesh=part)
        ours, theirs = (
            scores_of(model, model, samples_of(2, (rank,))),
            scores_of(whole, whole, samples_of(2, ranks)),
        )
        found[name] = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    return found


def test_shards_on_a_mesh_of_two_axes() -> None:
    """Sharded over one axis, replicated over the other; and two models, each of two processes."""
    for found in on_processes(train_shards, 4):
        assert max(found.values()) < 1e-12


def test_a_model_is_pickled_and_copied_without_its_process_group() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = ModulatedModel(network(TWO, late=True, layer="plain"), AGM(TWO))
        model.method.use_process_group(dist.group.WORLD)
        inputs, target = batch(TWO, 6, 3)
        model(inputs, target).sum().backward()
        others = pickle.loads(pickle.dumps(model)), copy.deepcopy(model)
        for one in (model, *others):
            one(inputs, target).sum().backward()
            torch.testing.assert_close(one.method.mean_score, model.method.mean_score)
    finally:
        dist.destroy_process_group()


def test_the_batch_of_a_process_that_only_goes_along_does_not_count() -> None:
    inputs, target = batch(TWO, 6, 3)
    for method in (AGM(TWO), OGMGE(TWO)):
        model = ModulatedModel(network(TWO, late=True, layer="plain"), method)
        model.method.counts_batch = False
        model(inputs, target)
        assert model.last_step is not None
        assert model.last_step.scores is not None
        assert model.last_step.scores.isnan().all()  # of no sample at all, as it is alone
        assert model.last_step.coefficients.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("many", [True, False])
def test_the_groups_of_a_sharded_part_are_those_that_share_its_batches(many: bool) -> None:
    """Shards alone, copies alone, shards of copies, neither; FSDP keeps a list of them, or one."""

    class Sharded(nn.Linear):
        def __init__(self, **groups: object) -> None:
            super().__init__(1, 1)
            part = SimpleNamespace(mesh_info=SimpleNamespace(**groups))
            self.state = SimpleNamespace(
                **({"_fsdp_param_groups": [part]} if many else {"_fsdp_param_group": part})
            )

        def _get_fsdp_state(self) -> Any:
            return self.state

    parts = [
        nn.Linear(1, 1),
        Sharded(),
        Sharded(shard_process_group="s"),
        Sharded(replicate_process_group="r"),
        Sharded(shard_process_group="s", replicate_process_group="r"),
    ]
    assert list(_mesh_groups(nn.Sequential(*parts))) == [("s",), ("r",), ("s", "r")]
