"""ModulatedModel: what a user's own loop meets."""

from __future__ import annotations

import copy
import gc
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

import gradmod
from gradmod import AGM, MSES, MSLR, OGMGE, Joint, Method, ModulatedModel
from gradmod.methods import DGL, MCR, MLA, OPM, TCMax
from networks import NAMES, batch, network

TWO = NAMES[:2]


def modulated(layer: str = "batch-norm", late: bool = True, **settings: object) -> ModulatedModel:
    return ModulatedModel(network(TWO, late=late, layer=layer), AGM(TWO, **settings))  # type: ignore[arg-type]


def test_the_two_lines_train_and_differ_from_joint_training() -> None:
    final = []
    for method in (AGM(TWO, alpha=1.5), Joint(TWO)):
        model = ModulatedModel(network(TWO, late=True, layer="batch-norm"), method)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs, target = batch(TWO, 16, 3)
        losses = []
        for _ in range(40):
            loss = nn.functional.cross_entropy(model(inputs, target), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2
        final.append(model.model.state_dict())
    assert any(not torch.allclose(final[0][key], final[1][key]) for key in final[0])


def test_eval_mode_is_the_model_itself() -> None:
    model = modulated().eval()
    inputs, _ = batch(TWO, 6, 3)
    assert torch.equal(model(inputs), model.model(inputs))


def test_the_value_is_that_of_the_model() -> None:
    model = modulated()
    inputs, target = batch(TWO, 6, 3)
    reference = copy.deepcopy(model.model)
    assert torch.equal(model(inputs, target), reference(inputs))


def test_a_missing_target_in_training_is_an_error() -> None:
    with pytest.raises(ValueError, match="target is None in train mode"):
        modulated()(batch(TWO, 6, 3)[0])


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (torch.zeros(5, dtype=torch.int64), r"target has shape \[5\]; expected \[6\]"),
        (torch.zeros(6), "target has dtype torch.float32"),
    ],
)
def test_a_target_of_the_wrong_form_is_an_error(target: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        modulated()(batch(TWO, 6, 3)[0], target)


def test_inputs_under_other_names_are_an_error() -> None:
    inputs, target = batch(TWO, 6, 3)
    with pytest.raises(ValueError, match=r"inputs lack 'visual'.*\['audio', 'image'\]"):
        modulated()({"audio": inputs["audio"], "image": inputs["visual"]}, target)


def test_a_second_forward_before_the_backward_is_an_error_with_batch_norm() -> None:
    model = modulated()
    first = model(*batch(TWO, 6, 3))
    with pytest.raises(RuntimeError, match="second training forward before the backward"):
        model(*batch(TWO, 6, 3))
    first.sum().backward()
    model(*batch(TWO, 6, 3)).sum().backward()


def test_an_output_that_was_dropped_needs_no_backward() -> None:
    model = modulated()
    output = model(*batch(TWO, 6, 3))
    del output
    gc.collect()
    model(*batch(TWO, 6, 3)).sum().backward()


def test_without_running_statistics_two_forwards_are_fine() -> None:
    for model in (
        modulated("layer-norm", late=False),
        ModulatedModel(network(TWO, late=True, layer="batch-norm"), Joint(TWO)),
    ):
        total = model(*batch(TWO, 6, 3)).sum() + model(*batch(TWO, 6, 3)).sum()
        total.backward()
    model = modulated()
    with torch.no_grad():
        model(*batch(TWO, 6, 3))
        model(*batch(TWO, 6, 3))


@pytest.mark.parametrize("wrapper", [nn.DataParallel])
def test_a_model_that_is_already_distributed_is_refused(wrapper: type[nn.Module]) -> None:
    with pytest.raises(TypeError, match="DataParallel\\(ModulatedModel"):
        ModulatedModel(wrapper(network(TWO, late=True, layer="plain")), AGM(TWO))
    with pytest.raises(TypeError, match="one model has one method"):
        ModulatedModel(modulated(), AGM(TWO))


def test_a_model_without_an_encoder_for_a_modality_is_refused() -> None:
    with pytest.raises(ValueError, match="no encoder for 'text'"):
        ModulatedModel(network(TWO, late=True, layer="plain"), AGM(NAMES[:3]))


def test_the_state_dict_goes_on_where_it_was() -> None:
    model = modulated(alpha=2.0)
    for seed in range(3):
        model(*batch(TWO, 6, 3, seed=seed)).sum().backward()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = modulated(alpha=2.0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for m in (model, other):
        m(*batch(TWO, 6, 3, seed=9)).sum().backward()
    assert model.last_step is not None
    assert other.last_step is not None
    assert torch.equal(model.last_step.coefficients, other.last_step.coefficients)
    assert all(torch.is_tensor(value) for value in model.state_dict().values())


def test_a_state_of_other_modalities_is_refused() -> None:
    state = modulated().state_dict()
    other = ModulatedModel(network(TWO, late=True, layer="batch-norm"), AGM(TWO[::-1]))
    with pytest.raises(ValueError, match=r"saved for the modalities \['audio', 'visual'\]"):
        other.load_state_dict(state)


def test_statistics_stay_float64_when_the_model_is_cast() -> None:
    model = modulated()
    model(*batch(TWO, 6, 3)).sum().backward()
    assert isinstance(model.method, AGM)
    before = model.method.mean_score.clone()
    for cast in (
        model.half,
        model.float,
        model.bfloat16,
        lambda: model.to(torch.float32),
        lambda: model.to("cpu"),
    ):
        cast()
        assert model.method.mean_score.dtype == torch.float64
        assert torch.equal(model.method.mean_score, before)
    assert model.to("meta").method.get_buffer("mean_score").is_meta
    assert next(model.model.parameters()).is_meta


def test_a_copy_is_independent_and_can_be_made_while_a_backward_is_pending() -> None:
    model = modulated()
    inputs, target = batch(TWO, 6, 3)
    model(inputs, target)
    twin = copy.deepcopy(model)
    twin(inputs, target).sum().backward()
    assert twin.method.get_buffer("steps").tolist() == [2, 2]
    assert model.method.get_buffer("steps").tolist() == [1, 1]


@pytest.mark.parametrize(
    "method", [AGM(TWO), OGMGE(TWO), MSES(TWO), MSLR(TWO, initial={"audio": 2.0}), Joint(TWO)]
)
def test_without_gradient_a_forward_is_the_networks_own_and_no_step(method: Method) -> None:
    """Also in train mode: statistics of batch norm are recalibrated so, without any target."""
    net = network(TWO, late=True, layer="batch-norm")
    model, twin = ModulatedModel(net, method), copy.deepcopy(net).train()
    inputs, target = batch(TWO, 6, 3)
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        for arguments in ((inputs,), (inputs, target)):
            torch.testing.assert_close(model(*arguments), twin(inputs), rtol=0, atol=0)
    for ours, theirs in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    after = method.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert model.last_step is None


def test_statistics_of_an_averaged_model_are_those_of_the_network() -> None:
    model = modulated("batch-norm")
    inputs, target = batch(TWO, 6, 3)
    averaged, plain = AveragedModel(model), AveragedModel(copy.deepcopy(model.model))
    update_bn([(inputs, target)], averaged)
    update_bn([(inputs, target)], plain)
    ours = {
        key.removeprefix("module.model."): value for key, value in averaged.state_dict().items()
    }
    for key, value in plain.state_dict().items():
        assert torch.equal(ours[key.removeprefix("module.")], value), key
    assert model.method.get_buffer("steps").tolist() == [0, 0]


def test_a_missing_target_is_told_with_what_to_do() -> None:
    inputs, _ = batch(TWO, 6, 3)
    with pytest.raises(
        ValueError,
        match=r"label_smoothing_factor or compute_loss_func.*label_smoothing=0\.1.*no_grad",
    ):
        modulated()(inputs)


@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
def test_no_host_synchronisation_in_forward_modulation_and_backward(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModulatedModel(
        network(TWO, late=True, layer="batch-norm"), AGM(TWO), coalitions=strategy
    )
    inputs, target = batch(TWO, 6, 3)
    model.check_network(inputs)  # what the first step does once

    def refuse(self: Tensor, *args: object) -> None:
        raise AssertionError("read a tensor on the host")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            patch.setattr(Tensor, name, refuse)
        for _ in range(2):
            model.task.loss(model(inputs, target), target).backward()
    assert model.last_step is not None
    figures = model.last_step.by_modality(TWO)
    assert figures.keys() == {"scores", "ratios", "running_ratios", "coefficients", "headlines"}
    assert figures["scores"].keys() == set(TWO)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
def test_no_device_synchronisation_on_a_gpu(strategy: str) -> None:
    model = ModulatedModel(
        network(TWO, late=True, layer="batch-norm"), AGM(TWO), coalitions=strategy
    ).cuda()
    inputs, target = batch(TWO, 6, 3)
    inputs, target = {m: x.cuda() for m, x in inputs.items()}, target.cuda()
    model.task.loss(model(inputs, target), target).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.task.loss(model(inputs, target), target).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_base_method_is_joint_training() -> None:
    model = ModulatedModel(network(TWO, late=True, layer="plain"), Method(TWO))
    inputs, target = batch(TWO, 6, 3)
    model(inputs, target).sum().backward()
    assert model.last_step is None


@pytest.mark.parametrize("kind", [OPM, MCR, DGL, MLA, TCMax])
def test_methods_that_fuse_features_look_whether_the_network_fuses_so(kind: Any) -> None:
    """A network may merely have methods of these names; its forward does something else."""
    net = network(("audio", "visual"), late=False, layer="plain")

    class Other(type(net)):  # type: ignore[misc]
        def forward(self, inputs: Any) -> Any:
            return super().forward(inputs) * (1 + inputs["audio"][:, :1])

    net.__class__ = Other
    before = copy.deepcopy(net.state_dict())
    inputs, target = batch(("audio", "visual"), 6, 3)
    model = ModulatedModel(net, kind(("audio", "visual")))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"the forward of Other is not head\(fuse\(encode\)\)"):
        model.training_step(inputs, target, optimizer)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net = network(("audio", "visual"), late=False, layer="plain")
    opaque = gradmod.adapt(net, lambda net, x: net(x), encoders=dict(net.encoders.items()))
    if kind is DGL:  # which then runs the whole network for each modality
        ModulatedModel(opaque, DGL(("audio", "visual"))).training_step(
            inputs, target, torch.optim.SGD(net.parameters(), 0.1)
        )
        return
    with pytest.raises(ValueError, match=r"does not say how it encodes each modality and fuses"):
        ModulatedModel(opaque, kind(("audio", "visual")))
