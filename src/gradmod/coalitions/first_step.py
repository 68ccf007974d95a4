"""The check of the first step: whether a cheap strategy computes, for this network, what looping over coalitions does.

Networks do what no signature tells: write into their inputs, move buffers, mix samples, have methods that are merely
named `encode`. So the first batch is evaluated slowly as well, everything is put back as it was, and the two compared.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradmod.coalitions.altered import (
    as_float32,
    can_be_altered,
    in_float32,
    is_rounded,
    open_gates,
    sounding,
)
from gradmod.coalitions.habits import everything_put_back, is_equal, observe_habits
from gradmod.coalitions.kept_state import NetworkState, is_uninitialized, stateful_names
from gradmod.coalitions.masked_passes import masked_passes
from gradmod.coalitions.masking import (
    copy_containers,
    lengths_named,
    mask,
    nested_alike,
    tensor_leaves,
    with_items,
)
from gradmod.coalitions.modes import same_in_both_modes
from gradmod.coalitions.passes import Looped
from gradmod.coalitions.randomness import kept_random_state, random_state
from gradmod.coalitions.reuse import AdditiveHead, EncoderReuse, recorded_in
from gradmod.coalitions.strategy import Evaluation, Strategy
from gradmod.protocols import declared_mask, logits_of

_LOOPED_MODALITIES = 6
"""With more, an additive head is compared on a few coalitions, and not by looping over all of them."""
_DRAWN_COALITIONS = 8
_LOOKED_AT_AGAIN = 10
"""A later training step whose batch is compared as well: noise may begin late, a first batch be unlike the others."""


class CheckedStrategy(Strategy):
    """The cheapest of several strategies that computes what looping over the coalitions does.

    Found out on the first batch of each mode (train, eval). Until then, and in a compiled step that comes first, it is
    the first one of those that do not go by the network's declarations alone.

    Args:
        candidates: the cheapest first.
        checks: False: check nothing; use the first candidate that does not go by names alone.
    """

    def __init__(self, candidates: Sequence[Strategy], checks: bool = True) -> None:
        super().__init__(candidates[-1].batch_axes)
        self._candidates = list(candidates)
        self._chosen = candidates[0]
        self._checks = checks
        self._checked_modes: set[bool] = set()
        self._last_logits: Tensor | None = None
        self._steps = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the chosen strategy."""
        return self._chosen.name

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """That of the chosen strategy."""
        return self._chosen.exact

    @property
    def is_checked(self) -> bool:
        """Whether a batch was looked at in train mode."""
        return True in self._checked_modes

    def evaluate(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        *,
        masked_gradient: bool = True,
        present: Tensor | None = None,
    ) -> Evaluation:
        """See `Strategy.evaluate`; the first call checks."""
        if torch.compiler.is_compiling():
            return self._in_use(model).evaluate(
                model, inputs, modalities, masked_gradient=masked_gradient, present=present
            )
        with lengths_named(inputs, modalities, self.batch_axes):
            if self._is_due(model) and _has_samples(inputs):
                self.check(model, inputs, modalities, present)
            elif self._is_due_again(model) and _has_samples(inputs):
                self._check_again(model, inputs, modalities, present)
            found = self._in_use(model).evaluate(
                model, inputs, modalities, masked_gradient=masked_gradient, present=present
            )
        if self._chosen.noticed:
            warnings.warn(self._chosen.noticed, stacklevel=2)
            self._chosen.noticed = ""
        self._last_logits = found.logits if found.logits.requires_grad else None
        return found

    def take_last_logits(self) -> Tensor | None:
        """The logits of the last evaluation as the network computed them, once."""
        logits, self._last_logits = self._last_logits, None
        return logits

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_logits": None}

    def check(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        present: Tensor | None = None,
    ) -> None:
        """Choose, by what this batch shows. Nothing is changed by it: the network, the inputs, random states.

        Raises:
            ValueError: a mask that hides nothing, or a strategy, asked for by name, that is not what looping computes.
        """
        self._checked_modes.add(model.training)
        if len(modalities) > 1:
            self._look(model, inputs, modalities, present, again=False)

    def _check_again(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        present: Tensor | None,
    ) -> None:
        if len(modalities) > 1 and type(self._chosen) is not Looped:
            self._look(model, inputs, modalities, present, again=True)

    def _look(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        present: Tensor | None,
        again: bool,
    ) -> None:
        # With gradient, as in training: networks take gradients in their forward, and some layers compute otherwise.
        # The hooks keep what is saved for a backward out of the books of activation checkpointing around the model.
        saved = torch.autograd.graph.saved_tensors_hooks(_by_itself, _as_it_is)
        with (
            ExitStack() as trials,
            torch.enable_grad(),
            saved,
            kept_random_state(model),
            warnings.catch_warnings(),
        ):
            for strategy in self._candidates:
                trials.enter_context(strategy.trial())
            # The network's own, which come again in the step itself.
            warnings.simplefilter("ignore")
            if not again:
                for m in modalities:
                    _check_mask(model, m, inputs[m])
                habits = observe_habits(model, inputs, modalities[0])
                for strategy in self._candidates:
                    strategy.habits = habits
            reasons = self._choose(model, inputs, modalities, present, again)
        if reasons:
            warnings.warn(
                f"coalitions of {type(model).__name__} are evaluated by {self._chosen.name!r}, which is right and may "
                f"take longer, as {'; '.join(reasons)}. {_WAYS_OUT}",
                stacklevel=2,
            )

    def _choose(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        present: Tensor | None,
        again: bool,
    ) -> list[str]:
        """Take the first candidate that is right; return what was wrong with those before it."""
        # In eval mode a slower strategy is not given up for a cheaper one again.
        candidates = self._candidates[self._candidates.index(self._chosen) :]
        if not self._chosen.exact or type(self._chosen) is Looped:
            return []
        compare = _Comparison(model, inputs, modalities, present, candidates[-1])
        reasons: list[str] = []
        for strategy in candidates:
            reason = compare.difference_now(strategy) if again else compare.difference(strategy)
            if reason is None and not again:
                reason = compare.difference_in_disguise(strategy)
            if reason is None:
                self._chosen = strategy
                break
            reasons.append(f"{strategy.name!r} {reason}")
        else:
            raise ValueError(
                f"coalitions={reasons[0]} for this network ({type(model).__name__}). {_WAYS_OUT}; coalitions='auto' "
                "finds what is right"
            )
        return reasons

    def _is_due_again(self, model: nn.Module) -> bool:
        if not self._checks or not model.training or not torch.is_grad_enabled():
            return False
        self._steps += 1
        # Processes that train together must make the same number of passes, and choose on batches of their own.
        alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1
        return alone and self._steps + 1 == _LOOKED_AT_AGAIN and self.is_checked

    def _is_due(self, model: nn.Module) -> bool:
        has_scripts = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
        is_new = self._checks and model.training not in self._checked_modes
        return is_new and not has_scripts and not is_uninitialized(model)

    def _goes_by_names(self, model: nn.Module) -> bool:
        named = not isinstance(self._chosen, Looped) and len(self._candidates) > 1
        return named and not getattr(model, "encodes_as_declared", False)

    def _in_use(self, model: nn.Module) -> Strategy:
        if self._checked_modes or not self._goes_by_names(model):
            return self._chosen
        return next((s for s in self._candidates if isinstance(s, Looped)), self._chosen)


_WAYS_OUT = (
    "Causes: a forward that is not head(fuse(encode)), dropout or in-place layers outside the encoders, samples that "
    "are not apart on the first axis (batch_axis=), an extra input whose length is that of the batch by accident. "
    "coalitions='looped' takes any network"
)


def _by_itself(tensor: Tensor) -> Tensor:
    """Without its graph: an output that its own operation saves would hold on to itself, and never be freed."""
    return tensor.detach()


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _has_samples(inputs: Mapping[str, Any]) -> bool:
    return all(leaf.is_nested or leaf.numel() > 0 for leaf in tensor_leaves(inputs))


class _LoopedValues(Looped):
    """The loop, which lets go of the graph of each masked pass."""

    def logits_of_pass(self, model: nn.Module, output: Any) -> Tensor:
        """See `Looped`."""
        return super().logits_of_pass(model, output).detach()


class _Comparison:
    """Strategies against the loop over coalitions, on one batch and from one random state."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        present: Tensor | None,
        slow: Strategy,
    ) -> None:
        self._model, self._inputs, self._present = model, inputs, present
        self._modalities = tuple(modalities)
        # What a sample lacks is hidden in it, and stays so.
        self._shown = tuple(
            m for i, m in enumerate(modalities) if present is None or bool(present[:, i].all())
        )
        self._slow = _LoopedValues(slow.batch_axes)
        self._slow.habits = slow.habits
        self._oracles: dict[tuple[bool, bool], Evaluation] = {}
        self._rounded = is_rounded(model)

    def difference(self, strategy: Strategy) -> str | None:
        """In words, what `strategy` computes otherwise; None where it computes the same."""
        if type(strategy) is Looped:
            return None
        return self._difference(strategy) or self._draws_in_encode(strategy)

    def difference_now(self, strategy: Strategy) -> str | None:
        """The same on a batch of a later step, which may be broken: None where figures are not finite."""
        if type(strategy) is Looped or self._is_large(strategy) or not self._is_finite():
            return None
        return self._difference(strategy)

    def difference_in_disguise(self, strategy: Strategy) -> str | None:
        """The same where nothing hides it: no parameter at zero, no silent input, no rounding to 16 bits.

        None where the network cannot be evaluated so.
        """
        if type(strategy) is Looped:
            return None
        together = dist.is_available() and dist.is_initialized()
        alters = together or can_be_altered(
            self._model, self._inputs, self._shown, strategy.batch_axes
        )
        for wide in (True, False) if self._rounded else (False,):
            if not alters and not wide:
                return None
            if self._is_large(strategy):
                return self._difference(strategy, alters) if alters else None
            if not self._is_finite(alters, wide):
                continue
            reason = self._difference(strategy, alters, wide)
            if reason is None:
                return None
            parts = ["parameters that start at one value moved", "noise in silent inputs"] * alters
            return f"{reason} (with {', '.join([*parts, *['all in float32'] * wide])})"
        return None

    def _difference(
        self, strategy: Strategy, altered: bool = False, wide: bool = False
    ) -> str | None:
        try:
            found = self._evaluate(strategy, altered, wide)
        except (
            Exception
        ) as error:  # whatever a network of somebody's raises when it is called in another way
            if not self._is_large(strategy):
                # Where the loop raises as well, that is the error to be seen.
                self._looped(altered, wide)
            return f"raises {type(error).__name__} ({str(error).splitlines()[0] if str(error) else 'no message'})"
        if self._is_large(strategy):
            return self._not_additive(found, altered)
        oracle = self._looped(altered, wide)
        if found.responses.shape != oracle.responses.shape:
            return f"gives responses of shape {list(found.responses.shape)}, looping {list(oracle.responses.shape)}"
        off = _largest_difference(found.responses, oracle.responses)
        scale = _scale(oracle)
        if _is_close(
            found.responses, oracle.responses, oracle.responses.abs().amax(0), oracle, wide
        ):
            return None
        drawn = (
            ", where it draws random numbers (dropout without training=self.training?)"
            if self._draws_in_eval_mode()
            else ""
        )
        return f"differs from looping over the coalitions by {off:.2g}, of logits up to {scale:.2g}{drawn}"

    def _is_finite(self, altered: bool = False, wide: bool = False) -> bool:
        """Whether the loop can be evaluated, so that others can be compared with it."""
        try:
            return bool(self._looped(altered, wide).responses.isfinite().all())
        except Exception:  # say, an overflow that the network looks for
            return False

    def _is_large(self, strategy: Strategy) -> bool:
        return len(self._modalities) > _LOOPED_MODALITIES and isinstance(strategy, AdditiveHead)

    def _evaluate(
        self, strategy: Strategy, altered: bool = False, wide: bool = False
    ) -> Evaluation:
        model, inputs = self._model, self._inputs
        with everything_put_back(model), in_float32(model) if wide else nullcontext():
            if altered:
                open_gates(model)
                inputs = sounding(inputs, self._shown, strategy.batch_axes)
            evaluation = strategy.evaluate(
                model,
                copy_containers(as_float32(inputs) if wide else inputs, with_tensors=True),
                self._modalities,
                present=self._present,
            )
            return Evaluation(
                None, evaluation.logits.detach().clone(), evaluation.responses.detach().clone()
            )

    def _looped(self, altered: bool = False, wide: bool = False) -> Evaluation:
        oracle = self._oracles.get((altered, wide))
        if oracle is None:
            oracle = self._oracles[altered, wide] = self._evaluate(self._slow, altered, wide)
            lost = oracle.responses.isnan() & oracle.logits.isfinite()
            if bool(lost.any()):
                raise ValueError(
                    f"{type(self._model).__name__} gives logits that are not finite when a modality is hidden, though "
                    "they are finite on all modalities: it cannot compute with what stands for the hidden one (zeros, "
                    "unless it says otherwise). Define mask(modality, x) on the model, or pass mask=... to "
                    "gradmod.adapt"
                )
        return oracle

    def _draws_in_encode(self, strategy: Strategy) -> str | None:
        """In words, that `encode` draws random numbers which its layers do not account for."""
        model: Any = self._model
        if not isinstance(strategy, EncoderReuse):
            return None
        own, drawn = model.encode, list[str]()

        def encode(modality: str, x: Any) -> Any:
            state, generators = random_state(model), NetworkState(model)
            feature = own(modality, x)
            if random_state(model) != state or generators.has_drawn():
                drawn.append(modality)
            return feature

        with everything_put_back(model), recorded_in(model, encode):
            model(copy_containers(self._inputs, with_tensors=True))
        unsaid = [
            m
            for m in dict.fromkeys(drawn)
            if m in self._modalities and same_in_both_modes(model.encoders[m])
        ]
        if not unsaid:
            return None
        return (
            f"takes the features of {', '.join(map(repr, unsaid))} from the training pass, where encode draws random "
            "numbers (noise, augmentation, dropout outside the encoders)"
        )

    def _draws_in_eval_mode(self) -> bool:
        model = self._model
        with (
            everything_put_back(model),
            masked_passes(model, NetworkState(model, stateful_names(model))),
        ):
            one, other = (
                logits_of(model, model(copy_containers(self._inputs, with_tensors=True)))
                for _ in range(2)
            )
        return not is_equal(one, other)

    def _not_additive(self, found: Evaluation, altered: bool) -> str | None:
        """Compare what single modalities add to a few coalitions with the differences of the responses."""
        model, names = self._model, self._modalities
        inputs = sounding(self._inputs, self._shown, {}) if altered else self._inputs
        hidden = {m: mask(model, m, inputs[m]) for m in names}
        draw = random.Random(0)
        for _ in range(_DRAWN_COALITIONS):
            one, other, *rest = draw.sample(range(len(names)), len(names))
            others = {names[i] for i in rest if draw.random() < 0.5}
            with (
                everything_put_back(model),
                masked_passes(model, NetworkState(model, stateful_names(model))),
            ):
                if altered:
                    open_gates(model)
                with_one, with_other = (
                    logits_of(
                        model,
                        model(with_items(inputs, {m: hidden[m] for m in names if m not in shown})),
                    )
                    for shown in ({*others, names[one]}, {*others, names[other]})
                )
            expected = found.responses[one] - found.responses[other]
            has = (
                None if self._present is None else (self._present[:, one] & self._present[:, other])
            )
            difference = (with_one - with_other).to(expected.dtype)
            sizes = found.responses.abs().amax(0)
            if has is not None:
                expected, difference, sizes = expected[has], difference[has], sizes[has]
            off = _largest_difference(expected, difference)
            if not _is_close(expected, difference, sizes, found):
                return f"differs from showing {names[one]!r} and {names[other]!r} in turn: by {off:.2g}"
        return None


def _check_mask(model: nn.Module, modality: str, x: Any) -> None:
    """Refuse a mask that fails, gives another form, or hides nothing."""
    try:
        hidden = mask(model, modality, x)
    except Exception as error:
        if declared_mask(model) is None:
            raise
        raise ValueError(
            f"mask({modality!r}, x) of {type(model).__name__} raised {type(error).__name__} ({error}); gradmod calls a "
            "method `mask` of a network with a modality's name and its input. If yours means something else, pass "
            "mask=lambda modality, x: ... to gradmod.adapt"
        ) from error
    shown_leaves, hidden_leaves = list(tensor_leaves(x)), list(tensor_leaves(hidden))
    if not shown_leaves and hidden is x and x is not None:
        raise ValueError(_hides_nothing(modality, x))
    if nested_alike(x, hidden) and shown_leaves:
        same = all(is_equal(a, b) for a, b in zip(shown_leaves, hidden_leaves, strict=True))
        if same and any(_varies(leaf) for leaf in shown_leaves):
            raise ValueError(_hides_nothing(modality, x))


def _hides_nothing(modality: str, x: Any) -> str:
    return (
        f"the mask of {modality!r} returns the input as it is ({type(x).__name__}), so that hiding {modality!r} hides "
        "nothing. Let mask(modality, x) return what the network is shown where the modality is absent"
    )


def _varies(leaf: Tensor) -> bool:
    return leaf.numel() > 1 and not bool((leaf == leaf.flatten()[0]).all())


def _largest_difference(one: Tensor, other: Tensor) -> float:
    both = torch.isfinite(one) & torch.isfinite(other)
    if bool((torch.isfinite(one) != torch.isfinite(other)).any()):
        return float("inf")
    return float((one - other).where(both, 0.0).abs().max()) if one.numel() else 0.0


def _is_close(
    one: Tensor, other: Tensor, sizes: Tensor, evaluation: Evaluation, wide: bool = False
) -> bool:
    """Whether two results are equal but for rounding.

    Each entry is judged by its own size (the largest response there): one class may be ruled out by -1e9.
    """
    tolerance = _tolerance(evaluation, wide)
    logits = evaluation.logits.detach()
    known = logits[logits.isfinite()].abs().to(one.dtype)
    typical = float(known.median()) if known.numel() else 1.0
    allowed = tolerance * (sizes + typical) + 1e-12
    return bool(
        (((one - other).abs() <= allowed) | (one == other) | (one.isnan() & other.isnan())).all()
    )


def _scale(evaluation: Evaluation) -> float:
    figures = torch.cat(
        [evaluation.responses.flatten(), evaluation.logits.flatten().to(evaluation.responses.dtype)]
    )
    return float(figures.where(figures.isfinite(), 0.0).abs().max()) or 1.0


def _tolerance(evaluation: Evaluation, wide: bool) -> float:
    """How far two ways to compute the same may differ by rounding, relative to the largest logit.

    `wide`: it was made without the autocast that is on now.
    """
    logits = evaluation.logits
    if logits.dtype in (torch.float16, torch.bfloat16) or (
        not wide and torch.is_autocast_enabled(logits.device.type)
    ):
        return 0.1
    if logits.dtype == torch.float64:
        return 1e-8
    return 1e-4 if logits.device.type == "cpu" else 5e-3  # TF32
