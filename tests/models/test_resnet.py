"""ResNet-18 against an independent functional computation, and torchvision's names and count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradmod.models.resnet import ResNet18


def torchvision_names() -> set[str]:
    """Parameter and buffer names of torchvision's resnet18, written from its structure, without the fc layer."""

    def norm(prefix: str) -> set[str]:
        return {
            f"{prefix}.{n}"
            for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        }

    names = {"conv1.weight"} | norm("bn1")
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            prefix = f"layer{layer}.{block}"
            names |= (
                {f"{prefix}.conv1.weight", f"{prefix}.conv2.weight"}
                | norm(f"{prefix}.bn1")
                | norm(f"{prefix}.bn2")
            )
            if block == 0 and layer > 1:
                names |= {f"{prefix}.downsample.0.weight"} | norm(f"{prefix}.downsample.1")
    return names


def functional_resnet18(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """ResNet-18 in eval mode, from nothing but a state dict."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.max_pool2d(
        F.relu(norm("bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3))), 3, 2, 1
    )
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(
                norm(
                    f"{name}.bn1",
                    F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1),
                )
            )
            y = norm(f"{name}.bn2", F.conv2d(y, state[f"{name}.conv2.weight"], padding=1))
            if f"{name}.downsample.0.weight" in state:
                x = norm(
                    f"{name}.downsample.1",
                    F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride),
                )
            x = F.relu(x + y)
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def test_names_and_count_are_torchvisions() -> None:
    net = ResNet18(in_channels=3)
    assert set(net.state_dict()) == torchvision_names()
    assert sum(p.numel() for p in net.parameters()) + 512 * 1000 + 1000 == 11_689_512
    assert net.out_features == 512


@pytest.mark.parametrize("channels", [1, 3])
def test_a_forward_equals_the_functional_computation(channels: int) -> None:
    torch.manual_seed(0)
    net = ResNet18(in_channels=channels, width=8).double().eval()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    x = torch.randn(2, channels, 33, 28, dtype=torch.float64)
    torch.testing.assert_close(
        net(x), functional_resnet18(net.state_dict(), x), rtol=1e-10, atol=1e-10
    )


def test_frames_are_averaged() -> None:
    torch.manual_seed(0)
    net = ResNet18(in_channels=3, width=4).double().eval()
    frames = torch.randn(2, 3, 5, 32, 32, dtype=torch.float64)
    expected = torch.stack([net(frames[:, :, t]) for t in range(5)]).mean(0)
    torch.testing.assert_close(net(frames), expected)
    assert net(frames).shape == (2, 32)


def test_it_starts_as_published() -> None:
    torch.manual_seed(0)
    net = ResNet18()
    weight = net.layer3[0].conv1.weight.detach()  # fan out: 256 * 9
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    scales = torch.cat(
        [m.weight.detach() for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    )
    assert float(scales.mean()) == pytest.approx(1, abs=0.002)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.1)


def test_without_batch_norm_the_convolutions_have_biases() -> None:
    net = ResNet18(1, width=4, norm=False)
    assert not any("running" in name for name in net.state_dict())
    assert all(
        f"{name}.bias" in net.state_dict()
        for name in ("conv1", "layer1.0.conv1", "layer2.0.downsample.0")
    )


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8), (2, 1, 2, 3, 8, 8)])
def test_inputs_of_another_shape_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[B, 1, H, W\]"):
        ResNet18(1, width=4)(torch.zeros(shape))
