"""The small encoders and the MaxOut network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradmod.coalitions.modes import same_in_both_modes
from gradmod.models.maxout import Maxout, MaxOutMLP
from gradmod.models.mlp import MLP
from gradmod.models.small_cnn import SmallCNN


def test_maxout_equals_a_loop() -> None:
    torch.manual_seed(0)
    layer = Maxout(5, 3, pool=4).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    for unit in range(3):
        pieces = [
            layer.linear.weight[4 * unit + k] @ x.T + layer.linear.bias[4 * unit + k]
            for k in range(4)
        ]
        torch.testing.assert_close(layer(x)[:, unit], torch.stack(pieces).amax(0))


def test_the_maxout_network_has_the_published_layers() -> None:
    net = MaxOutMLP(1024)
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["BatchNorm1d", *["Maxout", "BatchNorm1d", "Dropout"] * 2]
    assert net[0].eps == 1e-4
    assert net[1].linear.out_features == 2 * 2048
    assert net[4].linear.out_features == 2 * 1024
    assert net[3].p == net[6].p == 0.3
    assert net(torch.randn(4, 1024)).shape == (4, net.out_features) == (4, 1024)


def test_sizes_of_the_maxout_network_are_arguments() -> None:
    net = MaxOutMLP(6, hidden=(5,), pool=3, dropout=0.5)
    assert net[1].linear.out_features == 15
    assert net[3].p == 0.5
    assert net.out_features == 5


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (1, 32, 32), (3, 112, 112), (1, 1, 1)])
@pytest.mark.parametrize("stride", [2, 4])
def test_the_small_cnn_takes_images_of_any_size(shape: tuple[int, int, int], stride: int) -> None:
    net = SmallCNN(in_channels=shape[0], widths=(2, 3, 4), stride=stride)
    assert net(torch.randn(5, *shape)).shape == (5, net.out_features) == (5, 4)


def test_the_small_cnn_by_layers() -> None:
    torch.manual_seed(0)
    net = SmallCNN(1, widths=(2, 3), norm=False).double()
    x = torch.randn(4, 1, 13, 9, dtype=torch.float64)
    y = x
    for layer in (net.layers[0], net.layers[3]):
        step = 2 if layer is net.layers[0] else 1
        y = nn.functional.conv2d(y, layer.weight, layer.bias, step, 1).relu()
        y = nn.functional.max_pool2d(y, 2, ceil_mode=True)
    torch.testing.assert_close(net(x), y.mean((2, 3)))


def test_the_mlp_by_layers() -> None:
    torch.manual_seed(0)
    net = MLP(6, hidden=(4, 3)).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    first, second = (layer for layer in net.layers if isinstance(layer, nn.Linear))
    expected = (
        ((x.flatten(1) @ first.weight.T + first.bias).relu()) @ second.weight.T + second.bias
    ).relu()
    torch.testing.assert_close(net(x), expected)
    assert net.out_features == 3


def test_the_mlp_with_batch_norm_by_layers() -> None:
    torch.manual_seed(0)
    net = MLP(6, hidden=(4, 3), norm=True).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    y = x
    for linear in (layer for layer in net.layers if isinstance(layer, nn.Linear)):
        assert linear.bias is None
        y = y @ linear.weight.T
        y = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt()
        y = y.relu()
    torch.testing.assert_close(net(x), y)


def test_images_of_one_channel_may_lack_its_axis() -> None:
    net = SmallCNN(1).eval()
    x = torch.randn(3, 1, 12, 10)
    assert torch.equal(net(x[:, 0]), net(x))


def test_which_encoders_compute_the_same_in_both_modes() -> None:
    assert same_in_both_modes(MLP(4))
    assert not same_in_both_modes(MLP(4, dropout=0.1))
    assert not same_in_both_modes(MLP(4, norm=True))
    assert same_in_both_modes(SmallCNN(norm=False))
    assert not same_in_both_modes(SmallCNN())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MLP(0), "in_features is 0"),
        (lambda: MLP(4, hidden=()), r"hidden \(\)"),
        (lambda: SmallCNN(0), "in_channels is 0"),
        (lambda: SmallCNN(1, widths=()), r"widths \(\)"),
        (lambda: MLP(4)(torch.zeros(2, 5)), "a sample has 5 numbers; this MLP was made for 4"),
        (lambda: SmallCNN(1)(torch.zeros(2, 3, 8, 8)), r"expected \[B, 1, H, W\]"),
    ],
)
def test_errors(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
