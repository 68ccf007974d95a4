"""What users get wrong, each time answered by the library and not from deep inside torch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import AGM, MSES, OGMGE, Joint, ModulatedModel, Output, Regression, adapt
from networks import NAMES, batch, network

TWO = NAMES[:2]
STRATEGIES = ("looped", "batched", "reuse", "additive")


def modulated(**settings: object) -> ModulatedModel:
    return ModulatedModel(network(TWO, late=True, layer="batch-norm"), AGM(TWO), **settings)  # type: ignore[arg-type]


class Loose(nn.Module):
    """A callable network that returns what it is told to."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.scale, self.answer = nn.Parameter(torch.ones(())), answer

    def forward(self, inputs: dict[str, Tensor]) -> object:
        return self.answer(inputs, self.scale)  # type: ignore[operator]


@pytest.mark.parametrize(
    "inputs", [torch.zeros(6, 5), [torch.zeros(6, 5)], (torch.zeros(6, 5), torch.zeros(6, 4))]
)
def test_inputs_that_are_no_dict(inputs: object) -> None:
    with pytest.raises(
        TypeError, match=r"inputs is (Tensor|list|tuple); expected a dict by modality, \['audio'"
    ):
        modulated()(inputs, torch.zeros(6).long())


def test_backward_through_a_forward_in_eval_mode() -> None:
    model = modulated().eval()
    inputs, target = batch(TWO, 6, 3)
    for net in (
        model,
        ModulatedModel(Loose(lambda x, s: Output(x["audio"] * s, {"s": s})), AGM(TWO)).eval(),
    ):
        output = net(inputs, target)
        with pytest.raises(RuntimeError, match=r"eval mode with a target.*model.train\(\)"):
            (output.logits if isinstance(output, Output) else output).sum().backward()
    with torch.no_grad():
        F.cross_entropy(model(inputs, target), target)
    F.cross_entropy(model(inputs), target).backward()  # a saliency map, say: no target, no training


def test_two_methods_at_once() -> None:
    inner = modulated()
    for model in (inner, nn.Sequential(inner), adapt(inner, lambda net, inputs: net(inputs))):
        with pytest.raises(TypeError, match="one model has one method"):
            ModulatedModel(model, Joint(TWO))


def test_one_method_for_two_models() -> None:
    method = AGM(TWO)
    ModulatedModel(network(TWO, late=True, layer="plain"), method)
    with pytest.raises(ValueError, match="this AGM belongs to another model already"):
        ModulatedModel(network(TWO, late=True, layer="plain"), method)
    unused = AGM(TWO)
    with pytest.raises(ValueError, match="use 'auto', or 'batched'"):
        ModulatedModel(Loose(lambda x, s: x["audio"] * s), unused, coalitions="reuse")
    ModulatedModel(Loose(lambda x, s: x["audio"] * s), unused, coalitions="batched")
    flat = OGMGE(TWO, filter="published")
    with pytest.raises(ValueError, match="none has four axes"):
        ModulatedModel(network(TWO, late=True, layer="plain"), flat)
    flat.filter = "all"
    ModulatedModel(network(TWO, late=True, layer="plain"), flat)
    copy.deepcopy(modulated())(*batch(TWO, 6, 3)).sum().backward()


@pytest.mark.parametrize("method", [AGM, OGMGE])
def test_copies_of_dataparallel(method: type) -> None:
    """What DataParallel trains are copies for one forward: methods would act on these and forget it."""
    replica = ModulatedModel(
        network(TWO, late=True, layer="plain"), method(TWO)
    )._replicate_for_data_parallel()
    inputs, target = batch(TWO, 6, 3)
    with pytest.raises(
        RuntimeError, match=r"inside DataParallel.*Use DistributedDataParallel\(ModulatedModel"
    ):
        replica(inputs, target)
    replica.eval()(inputs)


@pytest.mark.parametrize("strategy", ["looped", "batched"])
def test_an_output_whose_shape_depends_on_what_is_hidden(strategy: str) -> None:
    def answer(x: dict[str, Tensor], scale: Tensor) -> Tensor:
        return scale * (x["audio"] if x["visual"].any(1).all() else x["audio"][:, :2])

    model = ModulatedModel(Loose(answer), AGM(TWO), coalitions=strategy)
    with pytest.raises(
        ValueError, match=r"shape \[\d+, 2\] with modalities hidden and \[6, 5\] on all modalities"
    ):
        model(*batch(TWO, 6, 3))


def test_a_head_or_a_contribution_of_another_shape() -> None:
    early, late = network(TWO, late=False, layer="plain"), network(TWO, late=True, layer="plain")
    head = early.head
    early.head = lambda joint: head(joint)[: 7 if len(joint) > 6 else None]  # type: ignore[method-assign,misc]
    with pytest.raises(ValueError, match=r"shape \[7, 3\] with modalities hidden"):
        ModulatedModel(early, AGM(TWO), coalitions="reuse")(*batch(TWO, 6, 3))
    late.contribution = lambda modality, feature: feature  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError, match=r"contribution\('audio', ...\) has shape \[7, 6\] and the logits \[6, 3\]"
    ):
        ModulatedModel(late, AGM(TWO), coalitions="additive")(*batch(TWO, 6, 3))


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (
            lambda x, s: x["audio"].mean(1) * s,
            ValueError,
            r"logits of shape \[6\]; expected \[B, ..., K\].*unsqueeze",
        ),
        (lambda x, s: x["audio"].mean() * s, ValueError, r"logits of shape \[\]"),
        (lambda x, s: x["audio"].mean(0, keepdim=True) * s, ValueError, r"shape|target"),
        (
            lambda x, s: {"logits": x["audio"] * s},
            TypeError,
            "the model returned dict; expected a logits tensor",
        ),
        (lambda x, s: (x["audio"] * s, s), TypeError, "the model returned tuple.*gradmod.Output"),
        (lambda x, s: None, TypeError, "the model returned NoneType"),
    ],
)
@pytest.mark.parametrize("method", [AGM, Joint])
@pytest.mark.parametrize("strategy", ["looped", "batched"])
def test_an_output_that_is_no_batch_of_logits(
    answer: object, error: type[Exception], match: str, method: type, strategy: str
) -> None:
    inputs, _ = batch(TWO, 6, 3)
    target = torch.zeros(6, dtype=torch.int64)
    model = ModulatedModel(Loose(answer), method(TWO), coalitions=strategy)
    if method is Joint:  # it hands on what the model returns; the step of a trainer looks at it
        with pytest.raises((error, ValueError)):
            model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 0.1))
        return
    with pytest.raises(error, match=match):
        model(inputs, target)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bad", [3, -1, -101])
def test_a_class_that_there_is_not(strategy: str, bad: int) -> None:
    inputs, target = batch(TWO, 6, 3)
    target[2] = bad
    with pytest.raises(
        ValueError, match=rf"target holds classes from {min(bad, 0)} to \d; expected 0 to 2"
    ):
        modulated(coalitions=strategy)(inputs, target)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_modalities_with_batches_of_different_lengths(strategy: str) -> None:
    inputs, target = batch(TWO, 6, 3)
    inputs["visual"] = inputs["visual"][:5]
    with pytest.raises(
        ValueError, match=r"'audio' \[6, 5\], 'visual' \[5, 4\]; expected as many samples of each"
    ):
        modulated(coalitions=strategy)(inputs, target)


def test_a_regression_target_that_is_an_integer_or_lacks_its_last_axis() -> None:
    inputs, _ = batch(TWO, 6, 3)
    model = ModulatedModel(
        network(TWO, late=True, layer="plain", classes=1), AGM(TWO), task=Regression()
    )
    with pytest.raises(ValueError, match=r"target has shape \[6\]; expected \[6, 1\]"):
        model(inputs, torch.zeros(6))
    with pytest.raises(ValueError, match=r"target has dtype torch.int64; expected floats"):
        model(inputs, torch.zeros(6, 1, dtype=torch.int64))


@pytest.mark.parametrize("method", [OGMGE, MSES])
def test_a_method_that_acts_after_the_backward_and_was_not_let_to(method: type) -> None:
    model = ModulatedModel(network(TWO, late=True, layer="plain"), method(TWO))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, target = batch(TWO, 6, 3)
    F.cross_entropy(model(inputs, target), target).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"call model.after_backward\(\)"):
        model(inputs, target)
