"""Each modality's own feature in the network's full pass, and what a head says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradmod.coalitions.kept_state import NetworkState
from gradmod.coalitions.masked_passes import masked_passes
from gradmod.coalitions.masking import tensor_leaves
from gradmod.coalitions.reuse import RecordedEncoding, recorded_in
from gradmod.coalitions.undisturbed import undisturbed
from gradmod.protocols import declared_modules, declares_encoding, declares_own_heads, logits_of


class FeaturesPass(NamedTuple):
    """A full pass, and what each modality's encoder gave in it.

    Attributes:
        output: what the network returned.
        features: by modality.
    """

    output: Any
    features: dict[str, Any]


class UniModalPass(NamedTuple):
    """A full pass, and each modality's own prediction in it.

    Attributes:
        output: what the network returned.
        logits: [M, B, ..., K] what a head says of each modality's feature.
    """

    output: Any
    logits: Tensor


Heads = Callable[[Mapping[str, Any], Tensor], Tensor]
Change = Callable[[str, Any], Any]
"""What the rest of the network sees of a modality's feature: called with the modality and the feature."""


def features_pass(
    model: nn.Module,
    inputs: Mapping[str, Any],
    modalities: Sequence[str],
    *,
    gradient: bool = True,
    change: Change | None = None,
) -> FeaturesPass:
    """Run the network's own forward and keep what its encoders gave in it.

    Args:
        model: declares `encoders` at least; where those are containers, `feature_modules`.
        inputs: the batch, by modality.
        modalities: their order.
        gradient: False: the features are read as values alone.
        change: what the fusion sees in place of a feature; what is kept is the encoder's own. None: the feature.

    Raises:
        RuntimeError: the forward does not run a modality's encoder once.
    """
    # What the forward does not encode is encoded afterwards, where no gradient is asked for: from this state.
    before = None if gradient or torch.compiler.is_compiling() else NetworkState(model)
    if declares_encoding(model, modalities):
        net: Any = model
        encoded = RecordedEncoding(net.encode, {})
        with recorded_in(model, encoded if change is None else _changed(encoded, change)):
            output = model(inputs)
        features = {m: encoded.feature(m) for m in modalities}
        missing = [m for m, feature in features.items() if feature is None]
        if missing and not gradient:
            with torch.no_grad(), masked_passes(model, before):
                features.update({m: net.encode(m, inputs[m]) for m in missing})
            missing = []
    else:
        with _outputs_of(_feature_modules(model, modalities), change) as outputs:
            output = model(inputs)
        features = {
            m: _feature_in(found[0]) if len(found) == 1 else None for m, found in outputs.items()
        }
        missing = [m for m, feature in features.items() if feature is None]
    if missing:
        raise RuntimeError(
            f"the network's forward did not run the encoder of {', '.join(map(repr, missing))} exactly once, or wrote "
            "into its feature afterwards, so that nothing can read it. Name the module that ends in the feature: "
            "gradmod.adapt(net, encoders={...})"
        )
    return FeaturesPass(output, features)


def forward_from_features(
    model: nn.Module, inputs: Mapping[str, Any], features: Mapping[str, Any]
) -> Any:
    """The network's own forward on features that were encoded before.

    Args:
        model: says how it encodes (`Encodes`).
        inputs: the batch that they were encoded from.
        features: what the fusion sees of each modality.

    Raises:
        RuntimeError: the forward encodes something else than the batch's inputs.
    """

    def given(modality: str, x: Any) -> Any:
        ours = list(tensor_leaves(inputs[modality]))
        if [id(leaf) for leaf in tensor_leaves(x)] != [id(leaf) for leaf in ours]:
            raise RuntimeError(
                f"the network's forward encodes another input of {modality!r} than the batch holds, so that features "
                "cannot be made before it. Let encode do what comes before the encoder"
            )
        return features[modality]

    with recorded_in(model, given):
        return model(inputs)


@torch.no_grad()
def check_fusion(model: nn.Module, inputs: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Check that the network's forward is its declared `head(fuse(encode))`, for who fuses features of his own.

    A few passes in eval mode, of which nothing is left; none for a network that says `encodes_as_declared = True`.

    Args:
        model: declares how it encodes (`gradmod.protocols.Encodes`).
        inputs: the batch, by modality.
        modalities: their names.

    Raises:
        ValueError: it is not.
    """
    if getattr(model, "encodes_as_declared", False) or torch.compiler.is_compiling():
        return
    net: Any = model
    with undisturbed(model):
        expected = logits_of(model, model(inputs))
        fused = net.fuse({m: net.encode(m, inputs[m]) for m in modalities})
        found = logits_of(model, net.head(fused))
    is_same = found.shape == expected.shape
    if is_same:
        reduced = expected.dtype.itemsize < 4 or torch.is_autocast_enabled(expected.device.type)
        allowed = (0.1 if reduced else 5e-3) * (float(expected.abs().max()) + 1e-6)
        is_same = bool((found - expected).abs().max() <= allowed)
    if not is_same:
        raise ValueError(
            f"the forward of {type(model).__name__} is not head(fuse(encode)) of its own methods of these names, so "
            "that features of other samples cannot be put in. Let it be, or say what it does: gradmod.adapt(net, "
            "encoders=..., fuse=..., head=...)"
        )


def uni_modal_pass(
    model: nn.Module,
    inputs: Mapping[str, Any],
    modalities: Sequence[str],
    heads: Heads | None = None,
    *,
    gradient: bool = True,
) -> UniModalPass:
    """Run the network's own forward, and let a head read each modality's feature in it.

    Args:
        model: see `features_pass`.
        inputs: the batch, by modality.
        modalities: their order.
        heads: what reads the features where the network has no heads of its own: called with them and the logits.
        gradient: False: the uni-modal logits are values only.

    Raises:
        RuntimeError: the forward does not run a modality's encoder once; no heads.
    """
    output, features = features_pass(model, inputs, modalities, gradient=gradient)
    with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
        if declares_own_heads(model, modalities):
            logits: Tensor = model.mono_logits(features)  # type: ignore[operator]
        elif heads is not None:
            logits = heads(features, logits_of(model, output))
        else:
            raise RuntimeError(
                "the network has no heads of its own (`mono_logits`), and none were given"
            )
    return UniModalPass(output, logits)


def as_tensor(feature: Any, modality: str) -> Tensor:
    """The feature of a modality, which is a tensor.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(feature, Tensor):
        raise TypeError(
            f"the feature of {modality!r} is {type(feature).__name__}; expected a tensor [B, ..., F]: let the encoder "
            "return what the fusion reads (gradmod.adapt(net, encode=...))"
        )
    return feature


def _feature_in(output: Any) -> Any:
    """The feature in what a module returned: recurrent modules return their state behind it."""
    return (
        output[0]
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor)
        else output
    )


def _feature_modules(model: nn.Module, modalities: Sequence[str]) -> dict[str, nn.Module]:
    """What ends in each modality's feature: `feature_modules` where the network says so, else its encoders."""
    declared = (
        declared_modules(model, "feature_modules", modalities)
        or declared_modules(model, "encoders", modalities)
        or {}
    )
    missing = [m for m in modalities if m not in declared]
    if missing:
        raise RuntimeError(
            f"the network does not say which module encodes {', '.join(map(repr, missing))}: give it `encoders`, or "
            "gradmod.adapt(net, encoders={...})"
        )
    return {m: declared[m] for m in modalities}


def _changed(encode: Change, change: Change) -> Change:
    return lambda modality, x: change(modality, encode(modality, x))


@contextmanager
def _outputs_of(
    encoders: Mapping[str, nn.Module], change: Change | None
) -> Iterator[dict[str, list[Any]]]:
    """What each encoder returns while entered; `change` makes of it what its caller gets."""
    outputs: dict[str, list[Any]] = {m: [] for m in encoders}

    def keep(modality: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
            outputs[modality].append(output)
            if change is None:
                return None
            feature = change(modality, _feature_in(output))
            return feature if _feature_in(output) is output else (feature, *output[1:])

        return hook

    handles = [encoder.register_forward_hook(keep(m)) for m, encoder in encoders.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
