"""What is put back on a network's modules, looked at by itself: containers of all kinds, how deep, what hooks reach."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradmod.coalitions.kept_state import NetworkState

OF_THE_MODULE: list[int] = []


class Plain:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "list": lambda x: [x],
    "tuple": lambda x: (x,),
    "dict": lambda x: {"inside": x},
    "deque": lambda x: deque([x]),
    "object": Plain,
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_containers_are_put_back_five_levels_deep_and_no_deeper(wrap: str) -> None:
    """The bound is on the work of a step: a network may hang on a long chain of objects."""
    for levels in range(1, 8):
        network = nn.Identity()
        innermost = ["before"]
        inside: Any = innermost
        for _ in range(levels - 1):
            inside = WRAPPED[wrap](inside)
        network.kept = inside
        state = NetworkState(network)
        innermost.append("after")
        state.put_back()
        assert innermost == (["before"] if levels <= 5 else ["before", "after"]), levels


@pytest.mark.parametrize(("size", "looked_into"), [(1000, True), (1001, False)])
@pytest.mark.parametrize("wrap", [list, tuple, deque, lambda items: dict(enumerate(items))])
def test_large_containers_are_kept_as_a_whole(
    wrap: Callable[[list[Any]], Any], size: int, looked_into: bool
) -> None:
    network = nn.Identity()
    items: list[Any] = [[i] for i in range(size)]
    network.kept = wrap(items)
    state = NetworkState(network)
    items[0].append("after")
    if wrap is not tuple:
        network.kept[size - 1] = "after"
    state.put_back()
    assert network.kept[size - 1] is items[-1]
    assert items[0] == ([0] if looked_into else [0, "after"])


@pytest.mark.parametrize("size", [3, 1000, 1001])
@pytest.mark.parametrize("with_tensors", [False, True])
def test_what_a_set_or_a_list_held_is_put_back_whatever_its_size(
    size: int, with_tensors: bool
) -> None:
    network = nn.Identity()
    items: list[Any] = (
        [torch.ones(2) + i for i in range(size)] if with_tensors else list(range(size))
    )
    network.items, network.names = items.copy(), set(items)
    network.by_name = {str(i): item for i, item in enumerate(items)}
    state = NetworkState(network)
    network.items[0] = network.items[1]
    network.by_name["0"] = items[1]
    network.names.remove(items[0])
    network.names.add("another")
    state.put_back()
    assert all(one is other for one, other in zip(network.items, items, strict=True))
    assert all(one is other for one, other in zip(network.by_name.values(), items, strict=True))
    assert {id(one) for one in network.names} == {id(one) for one in items}


def test_what_is_equal_but_another_object_is_put_back() -> None:
    network = nn.Identity()
    one, other = Plain(1.0), 1.0
    network.items, network.by_name = [one, other], {"a": one, "b": other}
    state = NetworkState(network)
    network.items[1] = network.by_name["b"] = 1
    state.put_back()
    assert network.items[1] is other
    assert network.by_name["b"] is other


def test_sets_attributes_and_buffers_are_put_back() -> None:
    network = nn.BatchNorm1d(2)
    network.names, network.nothing, network.word = {"a", "b"}, None, "before"
    mean = network.running_mean
    state = NetworkState(network)
    network.names.add("c")
    network.names.discard("a")
    network.nothing, network.word, network.more = 1, "after", [torch.ones(1)]  # type: ignore[assignment]
    network.running_mean = torch.ones(2)
    del network.eps
    state.put_back()
    assert network.names == {"a", "b"}
    assert network.nothing is None
    assert network.word == "before"
    assert not hasattr(network, "more")
    assert network.running_mean is mean
    assert network.eps == 1e-5


def test_tensors_that_a_pass_must_leave_alone_are_listed() -> None:
    network = nn.BatchNorm1d(2)
    network.weight.requires_grad_(False)
    network.kept = [torch.ones(1), {"in": (torch.zeros(1), network.bias)}]
    state = NetworkState(network)
    tensors = [*state.tensors, *state.norm_tensors]
    buffers = list(network.buffers())
    assert len(buffers) == 3
    expected = [*buffers, network.weight, network.kept[0], network.kept[1]["in"][0]]
    assert {id(tensor) for tensor in tensors} == {id(tensor) for tensor in expected}


def test_copies_stand_in_for_what_moves() -> None:
    network = nn.BatchNorm1d(2)
    network.weight.requires_grad_(False)
    weight, bias, mean = network.weight, network.bias, network.running_mean
    state = NetworkState(network, ["weight", "running_mean", "bias", "gone", "no.such.module"])
    with torch.no_grad():
        for tensor in (weight, bias, mean):
            tensor.fill_(7.0)
    swapped = state.give_copies(network)
    assert {name for _, name, _ in swapped} == {"weight", "bias", "running_mean"}
    assert {id(own) for *_, own in swapped} == {id(weight), id(bias), id(mean)}
    assert network.weight.tolist() == [1.0, 1.0]
    assert network.bias.tolist() == [0.0, 0.0]
    assert network.running_mean.tolist() == [0.0, 0.0]  # type: ignore[operator, union-attr]
    assert not network.weight.requires_grad
    assert network.bias.requires_grad
    network.running_mean.add_(1.0)  # type: ignore[operator, union-attr]
    for holder, name, own in swapped:
        holder[name] = own
    assert network.running_mean is mean
    state.give_copies(network)
    assert network.running_mean.tolist() == [0.0, 0.0]  # type: ignore[operator, union-attr]


class Keeper:
    def __init__(self) -> None:
        self.kept: list[int] = []
        self.count = 0

    def hook(self, *_: Any) -> None:
        self.kept.append(1)
        self.count += 1

    def __call__(self, *_: Any) -> None:
        self.hook()


def by_closure(kept: list[int]) -> Callable[..., None]:
    return lambda *_: kept.append(1)


def by_helper(kept: list[int]) -> Callable[..., None]:
    def add() -> None:
        kept.append(1)

    def through() -> None:
        add()

    return lambda *_: through()


def by_object(kept: list[int]) -> Callable[..., None]:
    holder = Keeper()
    holder.kept = kept
    return lambda *_: holder.hook()


def by_default(kept: list[int]) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any = None, into: list[int] = kept) -> None:
        into.append(1)

    return hook


def by_keyword_default(kept: list[int]) -> Callable[..., None]:
    def hook(*_: Any, into: list[int] = kept) -> None:
        into.append(1)

    return hook


def by_argument(kept: list[int]) -> Callable[..., None]:
    return functools.partial(lambda into, *_: into.append(1), kept)


def by_keyword(kept: list[int]) -> Callable[..., None]:
    return functools.partial(lambda *_, into: into.append(1), into=kept)


def by_partial_of_a_closure(kept: list[int]) -> Callable[..., None]:
    return functools.partial(lambda word, *_: kept.append(1), "a word")


def by_method(kept: list[int]) -> Callable[..., None]:
    holder = Keeper()
    holder.kept = kept
    return holder.hook


def by_call(kept: list[int]) -> Callable[..., None]:
    holder = Keeper()
    holder.kept = kept
    return holder


def by_wrapping(kept: list[int]) -> Callable[..., None]:
    inner = by_closure(kept)

    @functools.wraps(inner)
    def hook(*arguments: Any) -> None:
        inner(*arguments)

    return hook


WAYS = [
    by_closure,
    by_helper,
    by_object,
    by_default,
    by_keyword_default,
    by_argument,
    by_keyword,
    by_partial_of_a_closure,
    by_method,
    by_call,
    by_wrapping,
]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_what_hooks_write_into_is_put_back(way: Callable[..., Any], before: bool) -> None:
    network = nn.Sequential(nn.Identity())
    kept: list[int] = [0]
    if before:
        network[0].register_forward_pre_hook(way(kept))
    else:
        network[0].register_forward_hook(way(kept))
    state = NetworkState(network)
    network(torch.ones(1))
    assert len(kept) > 1
    state.put_back()
    assert kept == [0]


def test_a_global_that_a_hook_names_is_put_back() -> None:
    network = nn.Identity()
    network.register_forward_hook(lambda *_: OF_THE_MODULE.append(1))
    state = NetworkState(network)
    network(torch.ones(1))
    state.put_back()
    assert OF_THE_MODULE == []


def test_a_counter_of_the_object_whose_method_is_a_hook_is_put_back() -> None:
    network, keeper = nn.Identity(), Keeper()
    network.register_forward_hook(keeper.hook)
    state = NetworkState(network)
    network(torch.ones(1))
    state.put_back()
    assert keeper.count == 0


def test_a_hook_whose_closure_is_not_filled_yet_does_no_harm() -> None:
    network = nn.Identity()

    def hook(*_: Any) -> None:
        later()

    network.register_forward_hook(hook)
    NetworkState(network)

    def later() -> None:
        pass

    network(torch.ones(1))
