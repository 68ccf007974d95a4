"""Diagnosing & Re-learning: encoders go back towards their first weights, by how much they have overfitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.methods.base import Method, Need
from gradmod.methods.epoch import Epoch, SplitFeatures
from gradmod.methods.record import StepRecord
from gradmod.methods.view import Batch, View
from gradmod.metrics.clusters import k_means, purity
from gradmod.tasks import Classification, Task


class DiagnosingRelearning(Method):
    """Diagnosing & Re-learning (Wei et al., ECCV 2024, arXiv 2407.09705).

    After every `every` epochs, `times` times in all, the features of the training and of the validation split are
    scaled to 0..1 and each put into as many clusters as there are classes. With P the purity of the clusters,

        alpha^m = tanh(strength * |P_train - P_validation|)
        theta   <- alpha^m * theta_first + (1 - alpha^m) * theta          for every parameter of the encoder of m

    so that the encoder of a modality whose training features are purer than its validation ones is put back the most.
    Buffers (statistics of batch norm), heads, fusion and the optimizer's momentum stay, as in the published code. The
    first weights are those of the first training step: of a pretrained encoder, the pretrained ones.

    The published code acts after epochs 21, 41 and 61; this one after 20, 40 and 60. A run of `every` epochs or fewer
    is joint training.

    Args:
        modalities: names of the inputs; M >= 1.
        every: epochs from one diagnosis to the next, >= 1.
        times: how many there are, >= 1.
        strength: lambda, > 0.
        seed: of the clusters' starts.

    Attributes:
        diagnoses: what was found, one entry each time: the epoch before which it was, and by modality `train` and
            `validation`, the purities, and `alpha`.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import DiagnosingRelearning
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, DiagnosingRelearning(("audio", "visual"), every=1))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> batch = {"audio": torch.randn(6, 6), "visual": torch.randn(6, 4)}, torch.tensor([0, 1, 2, 0, 1, 2])
        >>> for epoch in (1, 2):
        ...     changed = model.before_epoch(epoch, train=[batch], validation=[batch])
        ...     loss = model.training_step(*batch, optimizer)
        >>> [found["epoch"] for found in model.method.diagnoses]
        [2]
    """

    needs = frozenset({Need.FEATURES, Need.MODULES, Need.SPLITS})

    def __init__(
        self,
        modalities: Sequence[str],
        every: int = 20,
        times: int = 3,
        strength: float = 3.0,
        seed: int = 0,
    ) -> None:
        super().__init__(modalities)
        for name, value in (("every", every), ("times", times)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected a whole number >= 1")
        if not (math.isfinite(strength) and strength > 0):
            raise ValueError(f"strength is {strength}; expected a finite number > 0")
        self.every, self.times, self.strength, self.seed = every, times, float(strength), seed
        self.diagnoses: list[dict[str, Any]] = []

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"every={self.every}, times={self.times}, strength={self.strength:g}"

    def prepare_network(self, network: nn.Module, task: Task) -> nn.Module:
        """See `Method.prepare_network`: the network as it is, for classes alone."""
        if not isinstance(task, Classification):
            raise ValueError(
                f"Diagnosing & Re-learning compares clusters with classes, and the task is {type(task).__name__}; "
                "expected Classification"
            )
        return network

    def begin_step(self, model: nn.Module) -> None:
        """See `Method.begin_step`: the first keeps the encoders' weights."""
        super().begin_step(model)
        if not self.store:
            for m in self.modalities:
                for name, parameter in self._named(m).items():
                    self.store[name] = parameter.detach().clone()

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's own forward."""
        if self.last_step is None:
            self.last_step = StepRecord(torch.ones(len(self.modalities), dtype=torch.float64))
        return view.output(batch)

    @torch.no_grad()
    def before_epoch(self, epoch: Epoch) -> bool:
        """See `Method.before_epoch`: the diagnosis, and the way back."""
        is_due = epoch.number > 1 and (epoch.number - 1) % self.every == 0
        if not is_due or not self.store or len(self.diagnoses) >= self.times:
            return False  # without a store there was no step yet: the weights are the first ones
        train, validation = epoch.features("train"), epoch.features("validation")
        found: dict[str, Any] = {"epoch": epoch.number}
        for m in self.modalities:
            purities = [self._purity(split, m) for split in (train, validation)]
            alpha = math.tanh(self.strength * abs(purities[0] - purities[1]))
            found[m] = {"train": purities[0], "validation": purities[1], "alpha": alpha}
            for name, parameter in self._named(m).items():
                parameter.lerp_(self.store[name].to(parameter), alpha)
        self.diagnoses.append(found)
        return True

    def _purity(self, split: SplitFeatures, modality: str) -> float:
        """Purity of the clusters of a modality's features, of the samples that have it."""
        features, target = split.features[modality], split.target
        if split.present is not None:
            has = split.present[modality]
            features, target = features[has], target[has]
        if target.is_floating_point() or features.shape[: target.dim()] != target.shape:
            raise ValueError(
                f"the targets are {target.dtype} {list(target.shape)} and the features of {modality!r} "
                f"{list(features.shape)}; expected a whole number, the class, for each feature [N, ..., F]"
            )
        rows, classes = (
            features.flatten(target.dim()).flatten(0, target.dim() - 1),
            target.flatten(),
        )
        rows, classes = rows[classes >= 0], classes[classes >= 0]  # others are no class
        low, high = rows.min(0).values, rows.max(0).values
        scaled = (rows - low) / (high - low).clamp(min=torch.finfo(rows.dtype).tiny)
        return purity(k_means(scaled, len(torch.unique(classes)), self.seed), classes)

    def _named(self, modality: str) -> dict[str, Tensor]:
        """The encoder's parameters, by the names of their first weights in the store."""
        parameters = self.encoder_parameters(modality)
        return {f"first.{modality}.{number}": p for number, p in enumerate(parameters)}

    def epoch_record(self) -> dict[str, Any]:
        """See `Method.epoch_record`: the diagnosis, in the epoch that began with one."""
        last = self.diagnoses[-1] if self.diagnoses else {}
        return {"diagnosis": last} if last.get("epoch") == self.epoch else {}

    def memory(self) -> dict[str, Any]:
        """What was found."""
        return {"diagnoses": self.diagnoses}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self.diagnoses = list(memory["diagnoses"])
