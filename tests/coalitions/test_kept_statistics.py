"""What a compiled step keeps of batch norm's running statistics; without compiling to machine code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradmod import AGM, ModulatedModel
from gradmod.coalitions.kept_statistics import kept_statistics
from networks import NAMES, batch, network

TWO = NAMES[:2]


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="torch 2.6 cannot compile a generator's context"
)
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize("strategy", ["looped", "reuse"])
def test_masked_passes_of_a_compiled_step_read_copies_of_the_updated_statistics(
    strategy: str,
) -> None:
    """Every batch norm of a masked pass reads what the opaque operation returned, and no buffer itself."""
    model = ModulatedModel(
        network(TWO, late=True, layer="batch-norm"), AGM(TWO), coalitions=strategy
    )
    graphs: list[torch.fx.GraphModule] = []

    def look(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    inputs, target = batch(TWO, 6, 3)
    compiled = torch.compile(model, backend=look, fullgraph=True)
    F.cross_entropy(compiled(inputs, target), target).backward()
    (graph,) = graphs
    norms = [node for node in graph.graph.nodes if node.target in (F.batch_norm, torch.batch_norm)]
    masked = [node for node in norms if not _training(node)]
    assert masked
    assert len(masked) < len(norms)
    for node in masked:
        statistics = node.args[1:3] if node.target is F.batch_norm else node.args[3:5]
        for statistic in statistics:
            assert "gradmod.kept" in str(statistic.target)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        assert norm.running_mean is norm._buffers["running_mean"]
        assert norm.num_batches_tracked == 1


def _training(node: torch.fx.Node) -> bool:
    return bool(node.args[5] if len(node.args) > 5 else node.kwargs["training"])


def test_what_is_kept_is_a_copy() -> None:
    statistic = torch.randn(3)
    copied = torch.ops.gradmod.kept(statistic)
    assert torch.equal(copied, statistic)
    assert copied.data_ptr() != statistic.data_ptr()


def test_a_step_that_is_not_compiled_copies_nothing() -> None:
    norm = nn.BatchNorm1d(3)
    mean = norm.running_mean
    with kept_statistics([norm]):
        assert norm.running_mean is mean
