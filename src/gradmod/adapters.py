"""Foreign networks behind the signature that gradmod calls, without changing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gradmod.coalitions.protocols import Output
from gradmod.groups import check_modality_modules

Modules = Mapping[str, nn.Module | Sequence[nn.Module]]


def adapt(
    net: nn.Module,
    call: Callable[[Any, Mapping[str, Any]], Tensor | Output] | None = None,
    *,
    encoders: Modules | None = None,
    heads: Modules | None = None,
    fuse: Callable[[Any, Mapping[str, Tensor]], Tensor] | None = None,
    head: Callable[[Any, Tensor], Tensor] | None = None,
    mask: Callable[[str, Any], Any] | None = None,
    mask_is_constant: bool = False,
) -> AdaptedModel:
    """Adapt a network with a signature of its own.

        model = adapt(net, call=lambda net, inputs: net(inputs["audio"], inputs["image"]))
        model = adapt(
            net,
            encoders={"audio": net.audio, "image": net.image},
            fuse=lambda net, features: torch.cat([features["audio"], features["image"]], 1),
            head=lambda net, joint: net.classifier(joint),
        )

    Args:
        net: the network; it is registered as it is, under the name `net`. Its parameters are trained.
        call: `call(net, inputs)` returns logits or `Output`. Left out where `fuse` and `head` are given.
        encoders: the module, or modules, of `net` that belong to each modality: explicitly, no parameter in two places.
        heads: the same for heads that read one modality alone.
        fuse: `fuse(net, features)` joins the features that the encoders return. With `head`, makes encoder reuse
            possible: logits are then `head(net, fuse(net, {m: encoders[m](inputs[m])}))`, one module for each modality.
        head: `head(net, joint)` returns logits.
        mask: `mask(modality, x)` returns what a hidden modality's input looks like; default zeros.
        mask_is_constant: declares that `mask` gives every sample the same.

    Returns:
        A module whose forward takes a dict of inputs by modality.

    Raises:
        ValueError: neither `call` nor `fuse` and `head`; a module that is not part of `net`; a parameter in two places.
    """
    model: AdaptedModel
    if call is not None and fuse is None and head is None:
        model = AdaptedCallable(net, call)
    elif call is None and fuse is not None and head is not None:
        model = AdaptedEncoding(net, fuse, head)
    else:
        raise ValueError("adapt needs either call=, or fuse= and head= together with encoders=")
    if encoders is None and (fuse is not None or heads is not None):
        raise ValueError("adapt was given no encoders=: name the module of net that encodes each modality")
    if encoders is not None:
        several = [m for m, modules in encoders.items() if not isinstance(modules, nn.Module)]
        if fuse is not None and several:
            raise ValueError(
                f"encoders of {several} are lists; with fuse= each modality is encoded by one module: name that one"
            )
        model._set_groups(encoders, heads or {})
    if mask is not None:
        model.mask = mask  # type: ignore[assignment]
        model.mask_is_constant = mask_is_constant  # type: ignore[assignment]
    return model


class AdaptedModel(nn.Module):
    """A foreign network and the modules of it that belong to each modality; made by `adapt`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._encoder_paths: dict[str, list[str]] = {}
        self._head_paths: dict[str, list[str]] = {}

    @property
    def encoders(self) -> dict[str, nn.Module] | None:
        """The module, or list of modules, that belongs to each modality; None where none were named."""
        return self._modules_at(self._encoder_paths) or None

    @property
    def heads(self) -> dict[str, nn.Module] | None:
        """The same for heads that read one modality alone."""
        return self._modules_at(self._head_paths) or None

    def _set_groups(self, encoders: Modules, heads: Modules) -> None:
        # Paths and not modules: they stay right when the model is copied.
        self._encoder_paths = {m: _paths(self.net, modules, f"encoder of {m!r}") for m, modules in encoders.items()}
        self._head_paths = {m: _paths(self.net, modules, f"head of {m!r}") for m, modules in heads.items()}
        check_modality_modules(self.encoders or {}, list(encoders), self.heads)

    def _modules_at(self, paths: Mapping[str, list[str]]) -> dict[str, nn.Module]:
        found = {m: [self.net.get_submodule(path) for path in listed] for m, listed in paths.items()}
        return {m: modules[0] if len(modules) == 1 else nn.ModuleList(modules) for m, modules in found.items()}


class AdaptedCallable(AdaptedModel):
    """A foreign network that is merely callable."""

    def __init__(self, net: nn.Module, call: Callable[[Any, Mapping[str, Any]], Tensor | Output]) -> None:
        super().__init__(net)
        self._call = call

    def forward(self, inputs: Mapping[str, Any]) -> Tensor | Output:
        """Logits (or `Output`) of a batch by modality."""
        return self._call(self.net, inputs)


class AdaptedEncoding(AdaptedModel):
    """A foreign network that also says how it encodes and fuses."""

    def __init__(
        self,
        net: nn.Module,
        fuse: Callable[[Any, Mapping[str, Tensor]], Tensor],
        head: Callable[[Any, Tensor], Tensor],
    ) -> None:
        super().__init__(net)
        self._fuse, self._head = fuse, head

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Logits of a batch by modality."""
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in self._encoder_paths}))

    def encode(self, modality: str, x: Any) -> Tensor:
        """Features of one modality's input."""
        (path,) = self._encoder_paths[modality]
        feature: Tensor = self.net.get_submodule(path)(x)
        return feature

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint feature, what the head reads."""
        return self._fuse(self.net, features)

    def head(self, joint: Tensor) -> Tensor:
        """Logits of a joint feature."""
        return self._head(self.net, joint)


def _paths(net: nn.Module, modules: nn.Module | Sequence[nn.Module], owner: str) -> list[str]:
    """Where in `net` the modules lie."""
    names = {id(module): name for name, module in net.named_modules()}
    listed = [modules] if isinstance(modules, nn.Module) else list(modules)
    for module in listed:
        if id(module) not in names:
            raise ValueError(
                f"the {owner} ({type(module).__name__}) is not a module of the adapted {type(net).__name__}; pass one "
                "of its own submodules"
            )
    return [names[id(module)] for module in listed]
