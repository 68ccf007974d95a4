"""Train and eval mode: masked passes in eval mode, and which modules compute the same in both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from gradmod.coalitions.kept_statistics import kept_statistics

# Exact types whose output does not depend on the mode. A subclass may do anything, so it does not count.
_MODE_FREE = {
    nn.modules.linear.NonDynamicallyQuantizableLinear,  # the output projection of nn.MultiheadAttention
    *(
        nn.Linear,
        nn.Bilinear,
        nn.Identity,
        nn.Flatten,
        nn.Unflatten,
        nn.Embedding,
        nn.Sequential,
        nn.ModuleList,
        nn.ModuleDict,
    ),
    *(
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
        nn.Fold,
        nn.Unfold,
    ),
    *(
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.PReLU,
        nn.ELU,
        nn.SELU,
        nn.CELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Softplus,
    ),
    *(
        nn.Sigmoid,
        nn.Tanh,
        nn.Hardtanh,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Softmax,
        nn.LogSoftmax,
        nn.GLU,
    ),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(
        nn.Upsample,
        nn.PixelShuffle,
        nn.ZeroPad2d,
        nn.ReflectionPad2d,
        nn.ReplicationPad2d,
        nn.ConstantPad2d,
    ),
}
_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_RECURRENT = {nn.RNN, nn.LSTM, nn.GRU}
# Types whose own dropout is in a `dropout` attribute, or in children that are looked at themselves.
_TRANSFORMER = {
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
}
_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def same_in_both_modes(module: nn.Module) -> bool:
    """Whether `module` would compute the same in eval mode as it does in its present mode.

    Decided by a list of module types; anything unknown counts as different. A class whose own `forward` does not
    look at `self.training` (nor calls functional dropout or batch norm) and computes every sample by itself says so
    with the class attribute `forward_ignores_mode = True`; its children are still looked at. A module frozen in eval
    mode computes the same.
    """
    return all(_own_forward_is_mode_free(child) for child in module.modules() if child.training)


def samples_stay_apart(module: nn.Module) -> bool:
    """Whether `module` surely computes every sample by itself, so that one more row in the batch changes no other.

    Decided by the same list; a module of unknown type, frozen or not, counts as one that may mix samples.
    """
    return all(_own_forward_keeps_samples_apart(child) for child in module.modules())


def runs_as_its_class(module: nn.Module) -> bool:
    """Whether nobody changed what calling `module` does: no hooks, no `forward` of the instance's own."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return not hooks and "forward" not in module.__dict__


def _own_forward_keeps_samples_apart(module: nn.Module) -> bool:
    if not runs_as_its_class(module):
        return False
    kind = type(module)
    if getattr(module, "dim", None) == 0 or getattr(module, "start_dim", None) == 0:
        return False  # a softmax over the batch, a flattening of it
    if isinstance(module, _BATCH_NORMS):
        return not module.training and module.track_running_stats
    known = kind in _MODE_FREE or kind in _TRANSFORMER or kind in _RECURRENT or kind in _DROPOUTS
    return (
        known
        or kind is nn.MultiheadAttention
        or bool(kind.__dict__.get("forward_ignores_mode", False))
    )


def _own_forward_is_mode_free(module: nn.Module) -> bool:
    if not runs_as_its_class(module):
        return False
    kind = type(module)
    if (
        kind in _MODE_FREE
        or kind in _TRANSFORMER
        or kind.__dict__.get("forward_ignores_mode", False)
    ):
        return True
    if kind in _DROPOUTS:
        return bool(getattr(module, "p", 1.0) == 0)
    if kind in _RECURRENT or kind is nn.MultiheadAttention:
        return bool(getattr(module, "dropout", 1.0) == 0)
    return False


def has_training_batch_norm(module: nn.Module) -> bool:
    """Whether a forward of `module` in its present mode would change running statistics."""
    return bool(_training_batch_norms(module))


def _training_batch_norms(module: nn.Module) -> list[nn.Module]:
    norms = (child for child in module.modules() if isinstance(child, _BATCH_NORMS))
    return [norm for norm in norms if norm.training and norm.track_running_stats]


def _is_plain_recurrent(module: nn.Module) -> bool:
    """Whether dropout 0 makes a recurrent layer compute in train mode what it does in eval mode."""
    forward = getattr(type(module), "forward", None)
    return any(forward is kind.forward for kind in (nn.RNN, nn.LSTM, nn.GRU)) and runs_as_its_class(
        module
    )


class MaskedPassMode:
    """Eval mode for the masked passes through a module; it can be entered once after another.

    Recurrent layers stay in train mode with their dropout set to 0, which computes the same: cuDNN refuses the backward
    of a recurrent layer in eval mode. One whose forward is its own goes to eval mode.

    Args:
        module: in its own mode; which submodules are in train mode is looked up here, once.

    Attributes:
        norms: the batch norms whose running statistics the full pass updates.
    """

    def __init__(self, module: nn.Module) -> None:
        training = [child for child in module.modules() if child.training]
        recurrent = [
            isinstance(child, nn.RNNBase) and _is_plain_recurrent(child) for child in training
        ]
        pairs = list(zip(training, recurrent, strict=True))
        self._training = [child for child, is_recurrent in pairs if not is_recurrent]
        self._recurrent: list[tuple[Any, Any]] = [
            (c, c.dropout) for c, is_recurrent in pairs if is_recurrent
        ]
        # Their `train` may set more than the flag; attributes are put back with the rest of the state.
        self._overriding = [
            child
            for child in training
            if getattr(type(child), "train", None) is not nn.Module.train
        ]
        self.norms = _training_batch_norms(module)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put every submodule in eval mode; on leaving, also by an exception, restore each one's own mode exactly."""
        try:
            for child in self._overriding:
                child.train(False)
            for child, _ in self._recurrent:
                child.training = True
            for child in self._training:
                child.training = False
            for child, _ in self._recurrent:
                child.dropout = 0.0
            with kept_statistics(self.norms):
                yield
        finally:
            for child in self._training:
                child.training = True
            for child, dropout in self._recurrent:
                child.dropout = dropout
