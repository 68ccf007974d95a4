"""MCR: a game in which every encoder makes the prediction depend on its own modality, and less on the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.features import features_pass
from gradmod.coalitions.kept_state import NetworkState
from gradmod.coalitions.masked_passes import masked_passes
from gradmod.coalitions.permuted import check_terms
from gradmod.methods.base import Method, Need
from gradmod.methods.bottleneck import FeatureDecoder, bottleneck_loss
from gradmod.methods.contrastive import contrastive_loss, features_with_classes
from gradmod.methods.draws import generator_of, process_number
from gradmod.methods.head_losses import record_of_heads, uni_modal_losses
from gradmod.methods.permutation_game import check_rows, draw_orders, play
from gradmod.methods.record import StepRecord
from gradmod.methods.uni_modal_losses import Weight, weights_by_modality
from gradmod.methods.view import Batch, View
from gradmod.protocols import declares_own_heads, declares_terms
from gradmod.tasks import Classification, Task


class MCR(Method):
    """Multimodal Competition Regularizer (Kontras et al., NeurIPS 2025).

        loss   = task(logits) + sum over m of  weight^m * task(uni-modal head of m)
                 + strength * game + contrastive * supervised contrastive loss of the features
                 + bottleneck * mean of (z^m - what the logits say of z^m)^2
        MIPD^m = mean over permutations of  JSD( softmax f(z), softmax f(z with z^m permuted in the batch) )
        game of encoder m:  - MIPD^m + sum over n != m of MIPD^n

    MIPD^m is how much the prediction depends on modality m: the Jensen-Shannon divergence between the joint prediction
    and the one in which the features of m are those of other samples. Every encoder raises its own and lowers the
    others', with the gradient through its own features alone. Fusion and head get no gradient of the game: the terms
    of two encoders are opposite there, and cancel.

    Encoders run once. Where the network declares its terms (`contribution`: late and sum fusion), those are permuted,
    and cost little. Other networks' fusion and head are called again on permuted features. Both in eval mode (the joint
    prediction that the game compares with too), so that running statistics are not moved and nothing is drawn but the
    permutations. Those are seeded by the step and the process. Features are permuted among the samples that have the
    modality, and MIPD^m is the mean over those.

    Args:
        modalities: names of the inputs; M >= 2.
        strength: of the game, >= 0.
        weight: of each modality's own loss, one number or one by modality (those left out have 1); >= 0. With strength
            and weight 0 this is joint training, to the last bit.
        contrastive: weight of `contrastive_loss` of all modalities' features, >= 0; above 0 it needs features [B, F]
            of one size, and one class a sample.
        bottleneck: weight of `bottleneck_loss`, the conditional entropy bottleneck, >= 0. Above 0 the method has a
            decoder from the logits to the features, whose parameters the optimizer must be given
            (`model.parameters()`), and which predicts nothing; and it needs features [B, ..., F].
        permutations: how many are drawn for each modality in a step, >= 1.
        seed: of the permutations.

    Raises:
        ValueError: one modality; a setting out of range.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import MCR
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, MCR(("audio", "visual")))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> model.last_step.ratios.shape  # MIPD of each modality
        torch.Size([2])
    """

    needs = frozenset({Need.FEATURES, Need.FUSION, Need.HEADS, Need.MODULES})
    needs_training_step = True

    def __init__(
        self,
        modalities: Sequence[str],
        strength: float = 0.1,
        weight: Weight = 1.0,
        contrastive: float = 0.0,
        permutations: int = 32,
        seed: int = 0,
        bottleneck: float = 0.0,
    ) -> None:
        super().__init__(modalities)
        if len(self.modalities) < 2:
            raise ValueError(
                f"MCR is a game between modalities, and there is {self.modalities[0]!r} alone; expected two or more"
            )
        for name, value in (
            ("strength", strength),
            ("contrastive", contrastive),
            ("bottleneck", bottleneck),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a finite number >= 0")
        if permutations < 1:
            raise ValueError(f"permutations is {permutations}; expected 1 or more")
        self.strength, self.contrastive = float(strength), float(contrastive)
        self.permutations, self.seed = permutations, seed
        self.bottleneck = float(bottleneck)
        self.decoder = FeatureDecoder(self.modalities) if bottleneck else None
        self.weights = weights_by_modality(weight, self.modalities)
        self._steps = 0
        self._is_checked = False
        if not any(self.weights.values()):
            self.needs = self.needs - {Need.HEADS}

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return (
            f"strength={self.strength:g}, weight={self.weights}, contrastive={self.contrastive:g}, "
            f"bottleneck={self.bottleneck:g}, permutations={self.permutations}"
        )

    def prepare_network(self, network: nn.Module, task: Task) -> nn.Module:
        """See `Method.prepare_network`: the network as it is.

        Raises:
            ValueError: another task than classification.
        """
        if not isinstance(task, Classification):
            raise ValueError(
                f"MCR compares the probabilities of classes, and the task is {type(task).__name__}; expected "
                "Classification. For labels and numbers take another method, say UniModalLosses"
            )
        return network

    def take_sizes(self, view: View, inputs: Mapping[str, Any]) -> None:
        """See `Method.take_sizes`: those of the decoder."""
        output, features = features_pass(view.model, inputs, self.modalities)
        assert self.decoder is not None
        self.decoder.take_sizes(features, view.logits_of(output).movedim(view.task.output_axis, -1))

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits; and the losses `uni_modal.<modality>`, `game`, `contrastive` and `bottleneck`."""
        has_heads = Need.HEADS in self.needs
        if not (self.strength or self.contrastive or self.bottleneck or has_heads):
            return view.output(batch)
        before = NetworkState(view.model)
        output, features = view.features(batch)
        logits = view.logits_of(output)
        view.task.check(logits, batch.target)
        counted = self._counted(view, batch).to(logits.device)
        losses = {}
        record = StepRecord(
            torch.ones(len(self.modalities), dtype=torch.float64),
            left_out_targets=view.task.left_out(batch.target),
        )
        if has_heads:
            net: Any = view.model
            if declares_own_heads(net, self.modalities):
                read = net.mono_logits(features)
            else:
                assert view.heads is not None
                read = view.heads(features, logits)
            found = uni_modal_losses(view.task, read, batch, self.modalities)
            losses = {f"uni_modal.{m}": self.weights[m] * loss for m, loss in found.items()}
            weights = [self.weights[m] for m in self.modalities]
            record = record_of_heads(self, view.task, read, batch, weights)
        if self.strength:
            orders = self._draw(len(batch.target), batch.present)
            has_terms = declares_terms(view.model, self.modalities)
            with torch.enable_grad(), masked_passes(view.model, before):
                for m in self.modalities:
                    check_rows(m, features[m], len(batch.target))
                if has_terms and not self._is_checked:
                    check_terms(view.model, features, orders)
                    self._is_checked = True
                game, dependence = play(view, features, orders, counted, by_terms=has_terms)
            losses["game"] = self.strength * game
            record = replace(record, ratios=dependence)
        if self.contrastive:
            rows, classes = features_with_classes(features, batch.target, counted, self.modalities)
            losses["contrastive"] = self.contrastive * contrastive_loss(rows, classes)
        if self.decoder is not None:
            said = logits.movedim(view.task.output_axis, -1)
            if not self.decoder.has_sizes:
                self.decoder.take_sizes(features, said)
            distance = bottleneck_loss(self.decoder, features, said, counted)
            losses["bottleneck"] = self.bottleneck * distance
        self.last_step = record
        return view.with_losses(output, losses)

    def _counted(self, view: View, batch: Batch) -> Tensor:
        """[M, B, ...] 1 where a sample has the modality, and a target."""
        scored = view.task.weights(batch.target)
        assert scored is not None  # of classes
        counted = scored.to(torch.float32)
        if batch.present is None:
            return counted.expand(len(self.modalities), *counted.shape)
        present = batch.present.T.to(counted)
        return counted * present.reshape(*present.shape, *(1,) * (counted.dim() - 1))

    def _draw(self, samples: int, present: Tensor | None) -> Tensor:
        """[M, R, B] of the next step: see `draw_orders`."""
        generator = generator_of(self.seed, self._steps, process_number())
        self._steps += 1
        return draw_orders(self.modalities, samples, self.permutations, generator, present)

    def memory(self) -> dict[str, Any]:
        """Steps so far, which seed the permutations."""
        return {"steps": self._steps}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._steps = int(memory["steps"])
