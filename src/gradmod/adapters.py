"""Foreign networks behind the signature that gradmod calls, without changing them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pickle import PicklingError
from typing import Any

from torch import Tensor, nn

from gradmod.protocols import check_modality_modules

Modules = Mapping[str, nn.Module | Sequence[nn.Module]]


def adapt(
    net: nn.Module,
    call: Callable[[Any, Mapping[str, Any]], Any] | None = None,
    *,
    encoders: Modules | None = None,
    heads: Modules | None = None,
    encode: Callable[[Any, str, Any], Any] | None = None,
    fuse: Callable[[Any, Mapping[str, Any]], Tensor] | None = None,
    head: Callable[[Any, Tensor], Any] | None = None,
    mask: Callable[[str, Any], Any] | None = None,
    mask_is_constant: bool = False,
    logits: Callable[[Any], Tensor] | None = None,
) -> AdaptedModel:
    """Adapt a network with a signature of its own.

        model = adapt(net, call=lambda net, inputs: net(inputs["audio"], inputs["image"]))
        model = adapt(
            net,
            encoders={"audio": net.audio, "image": net.image},
            fuse=lambda net, features: torch.cat([features["audio"], features["image"]], 1),
            head=lambda net, joint: net.classifier(joint),
        )

        model = adapt(net, lambda net, inputs: net(**inputs), logits=lambda out: out.logits)

    Args:
        net: the network; it is registered as it is, under the name `net`. Its parameters are trained.
        call: `call(net, inputs)` returns logits, `Output`, or with `logits=` whatever the network returns. Left out
            where `fuse` and `head` are given. With `logits=` alone: `net(inputs)`.
        encoders: the module, or modules, of `net` that belong to each modality: explicitly, no parameter in two places;
            but one module may encode several modalities, for methods that do nothing to encoders (AGM).
        heads: the same for heads that read one modality alone.
        encode: `encode(net, modality, x)` returns the features of one modality: a tensor, or nested tensors. Default:
            `encoders[modality](x)`, or with keywords where `x` is a dict whose keys are the encoder's arguments.
        fuse: `fuse(net, features)` joins the features. With `head`, makes encoder reuse possible: logits are then
            `head(net, fuse(net, {m: encode(net, m, inputs[m])}))`.
        head: `head(net, joint)` returns logits.
        mask: `mask(modality, x)` returns what a hidden modality's input looks like; default zeros.
        mask_is_constant: declares that `mask` gives every sample the same.
        logits: `logits(out)` returns the tensor in the network's own output (a ModelOutput, dict, tuple, dataclass)
            that is modulated; callers get that output back with its logits modulated.

    Returns:
        A module whose forward takes a dict of inputs by modality. To save it whole (`torch.save(model)`) or hand it to
        another process, pass functions that are defined with `def` in a module, and no lambda.

    Raises:
        ValueError: neither `call` nor `fuse` and `head`; a module that is not part of `net`; a parameter in two places.
    """
    model: AdaptedModel
    if (
        fuse is None
        and head is None
        and encode is None
        and (call is not None or logits is not None)
    ):
        model = AdaptedCallable(net, call)
    elif call is None and fuse is not None and head is not None:
        model = AdaptedEncoding(net, fuse, head, encode)
    else:
        raise ValueError(
            "adapt needs either call= (or logits= alone), or fuse= and head= together with encoders= (and encode=)"
        )
    if encoders is None and (fuse is not None or heads is not None):
        raise ValueError(
            "adapt was given no encoders=: name the module of net that encodes each modality"
        )
    if encoders is not None:
        several = [m for m, modules in encoders.items() if not isinstance(modules, nn.Module)]
        if fuse is not None and encode is None and several:
            raise ValueError(
                f"encoders of {several} are lists; with fuse= each modality is encoded by one module: name that one, "
                "or pass encode=lambda net, modality, x: ..."
            )
        model._set_groups(encoders, heads or {})
    if mask is not None:
        model.mask = UserFunction(mask, "mask")  # type: ignore[assignment]
        model.mask_is_constant = mask_is_constant  # type: ignore[assignment]
    if logits is not None:
        model.select_logits = UserFunction(logits, "logits")
    return model


class UserFunction:
    """A function given to `adapt`; says what to do where it cannot be pickled."""

    def __init__(self, function: Callable[..., Any], argument: str) -> None:
        self.function, self.argument = function, argument

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> UserFunction:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        name = getattr(self.function, "__qualname__", "")
        if ("<lambda>" in name or "<locals>" in name) and not _is_pickled_by_value():
            raise PicklingError(
                f"{self.argument}= of gradmod.adapt is {name}, which Python cannot pickle, so the model cannot be "
                "saved whole or sent to another process. Define it with `def` at the top of a module, or save "
                "model.state_dict()"
            )
        return UserFunction, (self.function, self.argument)


def _is_pickled_by_value() -> bool:
    """Whether a pickler is at work that can do lambdas, as that of joblib, Ray and Dask."""
    frame = inspect.currentframe()
    while frame is not None:
        if {"cloudpickle", "dill"} & set(frame.f_globals.get("__name__", "").split(".")):
            return True
        frame = frame.f_back
    return False


class AdaptedModel(nn.Module):
    """A foreign network and the modules of it that belong to each modality; made by `adapt`."""

    select_logits: Callable[[Any], Tensor] | None = None
    """Where the logits are in what the network returns; None: it returns logits or `Output`."""

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
        self._encoder_paths = {
            m: _paths(self.net, modules, f"encoder of {m!r}") for m, modules in encoders.items()
        }
        self._head_paths = {
            m: _paths(self.net, modules, f"head of {m!r}") for m, modules in heads.items()
        }
        check_modality_modules(self.encoders or {}, list(encoders), self.heads, shared="modules")

    def _modules_at(self, paths: Mapping[str, list[str]]) -> dict[str, nn.Module]:
        found = {
            m: [self.net.get_submodule(path) for path in listed] for m, listed in paths.items()
        }
        return {
            m: modules[0] if len(modules) == 1 else nn.ModuleList(modules)
            for m, modules in found.items()
        }


class AdaptedCallable(AdaptedModel):
    """A foreign network that is merely callable."""

    def __init__(
        self, net: nn.Module, call: Callable[[Any, Mapping[str, Any]], Any] | None
    ) -> None:
        super().__init__(net)
        self._call = None if call is None else UserFunction(call, "call")

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        """What the network returns for a batch by modality."""
        return self.net(inputs) if self._call is None else self._call(self.net, inputs)


class AdaptedEncoding(AdaptedModel):
    """A foreign network that also says how it encodes and fuses."""

    encodes_as_declared = True

    def __init__(
        self,
        net: nn.Module,
        fuse: Callable[[Any, Mapping[str, Any]], Tensor],
        head: Callable[[Any, Tensor], Any],
        encode: Callable[[Any, str, Any], Any] | None = None,
    ) -> None:
        super().__init__(net)
        self._fuse, self._head = UserFunction(fuse, "fuse"), UserFunction(head, "head")
        self._encode = None if encode is None else UserFunction(encode, "encode")

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        """Logits of a batch by modality."""
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in self._encoder_paths}))

    def encode(self, modality: str, x: Any) -> Any:
        """Features of one modality's input."""
        if self._encode is not None:
            return self._encode(self.net, modality, x)
        (path,) = self._encoder_paths[modality]
        encoder = self.net.get_submodule(path)
        return encoder(**x) if _takes_as_keywords(encoder, x) else encoder(x)

    def fuse(self, features: Mapping[str, Any]) -> Tensor:
        """Joint feature, what the head reads."""
        joint: Tensor = self._fuse(self.net, features)
        return joint

    def head(self, joint: Tensor) -> Any:
        """Logits of a joint feature."""
        return self._head(self.net, joint)


def _takes_as_keywords(encoder: nn.Module, x: Any) -> bool:
    """Whether the keys of `x` are arguments of the encoder, as those of tokenized text are of a transformers tower."""
    if not isinstance(x, Mapping) or not x or not all(isinstance(key, str) for key in x):
        return False
    arguments = inspect.signature(encoder.forward).parameters
    return all(key in arguments for key in x)


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
