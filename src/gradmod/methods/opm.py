"""OPM: features of the modality that is ahead are dropped at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod.coalitions.alone import say_alone
from gradmod.coalitions.features import as_tensor, forward_from_features
from gradmod.coalitions.kept_state import NetworkState
from gradmod.methods.base import Need
from gradmod.methods.centre import TargetCentre
from gradmod.methods.draws import generator_of, process_number
from gradmod.methods.sureness import compare_sureness
from gradmod.methods.view import Batch, View
from gradmod.methods.window import Window, WindowedMethod
from gradmod.tasks import Task


class OPM(WindowedMethod):
    """On-the-fly Prediction Modulation (Wei et al., TPAMI 2024, arXiv 2410.11582).

        c^m   = mean over the batch of softmax(what the network says of m alone)[target]
        rho^m = c^m / mean of the c^j of the others
        q^m   = clip(q * (1 + strength * tanh(rho^m - 1)), 0, 1)   where rho^m > 1: the modality is ahead;  else 0

    In a share `often` of the steps, the feature of m is dropped (0) with probability q^m, for each sample by itself,
    and what the fusion gets is divided by 1 - theta, theta the mean of the q^m weighted by the sizes of the features.
    Evaluation sees everything.

    What the network says of m alone is its answer with the others masked. A sample keeps a feature where it would be
    left with none. For targets other than classes c is exp(-score), as in `OGMGE`.

    Args:
        modalities: names of the inputs; M >= 2.
        q: base of the probability, above 0 and at most 1; 0.5 in the paper.
        strength: lambda, how much further ahead raises it, >= 0; 0.5 in the paper.
        often: share of the steps in which features are dropped, above 0 and at most 1; 0.7 in the paper.
        epochs: window, see `WindowedMethod`; the paper warms up for up to 5 epochs.
        seed: of the draws.

    Raises:
        ValueError: one modality; a number out of range; a network that does not say how it encodes.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import OPM
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, OPM(("audio", "visual"), often=1.0))
        >>> logits = model({"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}, torch.zeros(5).long())
        >>> model.last_step.coefficients.shape  # 1 - q^m, the probability of keeping each modality
        torch.Size([2])
    """

    needs = frozenset({Need.FEATURES, Need.FUSION})
    averages_scores = True

    def __init__(
        self,
        modalities: Sequence[str],
        q: float = 0.5,
        strength: float = 0.5,
        often: float = 0.7,
        epochs: Window | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(modalities, epochs)
        if len(self.modalities) < 2:
            raise ValueError(
                f"OPM compares modalities, but there is one, {self.modalities[0]!r}; train it jointly"
            )
        for name, value in (("q", q), ("often", often)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} is {value}; expected a number above 0 and at most 1")
        if not 0 <= strength < float("inf"):
            raise ValueError(f"strength is {strength}; expected a finite number >= 0")
        self.q, self.strength, self.often, self.seed = float(q), float(strength), float(often), seed
        self.centre = TargetCentre()
        self._steps = 0

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return (
            f"q={self.q:g}, strength={self.strength:g}, often={self.often:g}, epochs={self.epochs}"
        )

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's output on the features that are kept."""
        if not self.is_active():
            return view.output(batch)
        net: Any = view.model
        before = NetworkState(net)
        features = {m: net.encode(m, batch.inputs[m]) for m in self.modalities}
        said = say_alone(net, batch.inputs, self.modalities, features, before)
        dropped = self._probabilities(said, view.task, batch)
        always, own = self._generators()
        drops = bool(torch.rand(1, generator=always) < self.often)
        if drops:
            features = self._kept(features, dropped, batch.present, own)
        return forward_from_features(net, batch.inputs, features)

    @torch.no_grad()
    def _probabilities(self, said: Tensor, task: Task, batch: Batch) -> Tensor:
        """[M] q^m of this batch; records the step."""
        target, present = batch.target, batch.present
        self.centre.observe(target, task, self.sum_over_processes)
        seen = compare_sureness(self, self.centre, task, said, target, present)
        raised = self.q * (1 + self.strength * torch.tanh(seen.ratios - 1))
        ahead = (seen.ratios > 1) & seen.comparable
        dropped = torch.where(ahead, raised.clamp(0, 1), 0.0)
        self.last_step = seen.record(self, 1 - dropped, task, said, target, present)
        return dropped

    def _kept(
        self,
        features: Mapping[str, Any],
        dropped: Tensor,
        present: Tensor | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The features that the fusion gets."""
        tensors = {m: as_tensor(features[m], m) for m in self.modalities}
        samples = len(tensors[self.modalities[0]])
        device = tensors[self.modalities[0]].device
        names = sorted(self.modalities)  # the order in which they are named makes no difference
        order = [names.index(m) for m in self.modalities]
        draws = torch.rand(samples, len(names), generator=generator)[:, order].to(device)
        probabilities = dropped.float().to(device)
        keep = draws >= probabilities
        has = torch.ones_like(keep) if present is None else present.to(device)
        keep = torch.where((keep & has).any(1, keepdim=True), keep, has)
        sizes = torch.tensor([float(tensors[m][0].numel()) for m in self.modalities], device=device)
        theta = (sizes * probabilities.to(sizes)).sum() / sizes.sum()
        factors = keep / (1 - theta).clamp(min=1e-6)
        return {
            m: feature * factors[:, n].reshape(-1, *(1,) * (feature.dim() - 1)).to(feature.dtype)
            for n, (m, feature) in enumerate(tensors.items())
        }

    def _generators(self) -> tuple[torch.Generator, torch.Generator]:
        """One that draws the same on all processes, and this process' own; of this step."""
        self._steps += 1
        # A key that ends in 0 is that of the key without it.
        own = generator_of(self.seed, self._steps, 1 + process_number())
        return generator_of(self.seed, self._steps), own

    def memory(self) -> dict[str, Any]:
        """Steps so far, which seed the draws."""
        return {"steps": self._steps}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._steps = int(memory["steps"])
