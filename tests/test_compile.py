"""torch.compile of the whole training forward: model, coalitions, AGM. No graph breaks, the same numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from gradmod import AGM, ModulatedModel
from networks import NAMES, batch, network

TWO = NAMES[:2]
pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler
LATE = [("looped", True), ("batched", True), ("reuse", True), ("additive", True)]


def assert_compiled_equals_eager(
    model: ModulatedModel, backend: str, tolerance: float, sizes: tuple[int, ...]
) -> None:
    torch._dynamo.reset()
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for seed, size in enumerate(sizes):
        inputs, target = batch(TWO, size, 3, seed=seed)
        for m in (compiled, eager):
            m.zero_grad()
            model.task.loss(m(inputs, target), target).backward()
        for ours, expected in zip(model.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(
                ours.grad, expected.grad, rtol=100 * tolerance, atol=tolerance
            )
    assert eager.last_step is not None
    assert model.last_step is not None
    torch.testing.assert_close(model.last_step.coefficients, eager.last_step.coefficients)
    for (name, ours), (_, expected) in zip(
        model.named_buffers(), eager.named_buffers(), strict=True
    ):
        torch.testing.assert_close(ours, expected, msg=name)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        pytest.param("layer-norm", (6, 6, 9, 4), marks=pytest.mark.slow),
        ("batch-norm", (6, 6, 6)),
    ],
)
@pytest.mark.parametrize(("strategy", "late"), LATE)
def test_without_graph_breaks(
    strategy: str, late: bool, layer: str, sizes: tuple[int, ...]
) -> None:
    model = ModulatedModel(network(TWO, late=late, layer=layer), AGM(TWO), coalitions=strategy)
    assert_compiled_equals_eager(model, "aot_eager", 1e-12, sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "late", "layer", "sizes"),
    [
        ("looped", False, "batch-norm", (6, 6)),
        ("batched", False, "layer-norm", (6, 6)),
        ("batched", True, "batch-norm", (6, 6, 9, 4)),
        ("reuse", False, "batch-norm", (6, 6)),
        ("additive", True, "batch-norm", (6, 6, 9, 4)),
    ],
)
def test_by_inductor(strategy: str, late: bool, layer: str, sizes: tuple[int, ...]) -> None:
    """With batch norm inductor would compute the update of its statistics twice; see coalitions/kept_statistics.py.

    A second size compiles everything anew, which is most of a minute of g++: two of them show it.
    """
    net = network(TWO, late=late, layer=layer)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # compiled dropout draws other numbers
    model = ModulatedModel(net, AGM(TWO), coalitions=strategy)
    assert_compiled_equals_eager(model, "inductor", 1e-10, sizes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("strategy", ["batched", "reuse", "additive"])
def test_on_a_gpu_under_bf16(strategy: str) -> None:
    torch._dynamo.reset()
    model = ModulatedModel(
        network(TWO, late=True, layer="batch-norm").float(), AGM(TWO), coalitions=strategy
    ).cuda()
    compiled = torch.compile(model, fullgraph=True)
    inputs, target = batch(TWO, 32, 3)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.task.loss(
            compiled({m: x.float().cuda() for m, x in inputs.items()}, target.cuda()), target.cuda()
        )
    loss.backward()
    assert model.last_step is not None
    assert all(math.isfinite(value) for value in model.last_step.coefficients.tolist())
