"""Mono-modal pre-training: encoders begin as they are after training alone, and the whole is trained from there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.methods.record import StepRecord
from gradmod.methods.teachers import TaughtMethod
from gradmod.methods.view import Batch, View
from gradmod.protocols import declared_modules
from gradmod.tasks import Task


class Pretrained(TaughtMethod):
    """Joint training that begins with encoders which were trained on their modality alone.

    Fusion and head begin anew. With `encoder_lr` 0 the encoders are frozen: no gradient, no weight decay, batch norm
    and dropout in eval mode, and what is trained is the fusion and the head on fixed features. With 1 all is trained
    alike; in between the encoders' learning rate is that part of the common one.

    No single paper. Tables call it "Uni-Pre frozen" and "Uni-Pre finetuned" (Kontras et al., NeurIPS 2025), where it
    beats or ties nearly every balancing method.

    Args:
        modalities: names of the inputs; M >= 1.
        encoder_lr: what the learning rate is multiplied by for the encoders, >= 0. Other than 0 and 1 it needs an
            optimizer of `model.parameter_groups()`.

    Raises:
        ValueError: `encoder_lr` out of range.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import Pretrained
        >>> from gradmod.models import LateFusion, MLP
        >>> trained_alone = {"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, Pretrained(("audio", "visual"), encoder_lr=0))
        >>> model.take_teachers({m: encoder.state_dict() for m, encoder in trained_alone.items()})
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> bool((net.encoders["audio"](inputs["audio"]) == trained_alone["audio"](inputs["audio"])).all())
        True
    """

    def __init__(self, modalities: Sequence[str], encoder_lr: float = 1.0) -> None:
        super().__init__(modalities)
        if not (math.isfinite(encoder_lr) and encoder_lr >= 0):
            raise ValueError(
                f"encoder_lr is {encoder_lr}; expected a finite number >= 0 (0: the encoders are frozen)"
            )
        self.encoder_lr = float(encoder_lr)
        self.sets_learning_rates = self.encoder_lr not in (0.0, 1.0)

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"encoder_lr={self.encoder_lr:g}"

    @property
    def is_frozen(self) -> bool:
        """Whether the encoders stay as they are."""
        return self.encoder_lr == 0

    def prepare_network(self, network: nn.Module, task: Task) -> nn.Module:
        """See `Method.prepare_network`: the network as it is.

        Raises:
            ValueError: the encoders are frozen, and there is nothing else to train.
        """
        encoders = declared_modules(network, "encoders", self.modalities) or {}
        own = {id(p) for encoder in encoders.values() for p in encoder.parameters()}
        rest = [p for p in network.parameters() if p.requires_grad and id(p) not in own]
        if self.is_frozen and not rest:
            raise ValueError(
                f"encoder_lr is 0, and {type(network).__name__} has no parameters but those of its encoders: nothing "
                "would be trained. Expected a number above 0"
            )
        return network

    def bind(self, modules: Mapping[str, tuple[nn.Module, ...]]) -> None:
        """See `Method.bind`: frozen encoders get no gradient."""
        super().bind(modules)
        if self.is_frozen:
            for m in self.modalities:
                self._encoder(m).requires_grad_(False)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Parameters of the encoder alone: a head of the modality's begins anew, as the fusion does."""
        return self.encoder_parameters(modality)

    def _use(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        for m, state in states.items():
            self._encoder(m).load_state_dict(state, strict=False)

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's own forward, frozen encoders in eval mode."""
        if self.is_frozen:
            for m in self.modalities:
                self._encoder(m).eval()
        if self.last_step is None:
            rates = [self.encoder_lr] * len(self.modalities)
            self.last_step = StepRecord(torch.tensor(rates, dtype=torch.float64))
        return view.output(batch)

    def learning_rate_factors(self) -> dict[str, float]:
        """See `Method.learning_rate_factors`."""
        return dict.fromkeys(self.modalities, self.encoder_lr if self.sets_learning_rates else 1.0)
