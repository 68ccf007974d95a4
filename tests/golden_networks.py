"""The tiny networks and the training loop behind the recordings in tests/golden/, written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel

GOLDEN = Path(__file__).parent / "golden"
RECORDINGS = sorted(path.stem for path in GOLDEN.glob("agm_*.npz"))
INPUT_SIZES = {"audio": 12, "visual": 10, "text": 6}


def encoder(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU())


class Head(nn.Module):
    forward_ignores_mode = True

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, joint: Tensor) -> Tensor:
        return self.fc(joint)


class EarlyNetwork(nn.Module):
    """Encoders, concatenation, `mm_encoder`, `head.fc`; `mm_encoder` is missing in late fusion."""

    def __init__(self, modalities: tuple[str, ...], classes: int, early: bool) -> None:
        super().__init__()
        self.modalities = modalities
        for modality in modalities:
            self.add_module(f"{modality}_encoder", encoder(INPUT_SIZES[modality]))
        joint = 8 * len(modalities)
        if early:
            self.mm_encoder = nn.Sequential(nn.Linear(joint, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.head = Head(12 if early else joint, classes)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {modality: self.get_submodule(f"{modality}_encoder") for modality in self.modalities}

    def encode(self, modality: str, x: Tensor) -> Tensor:
        return self.encoders[modality](x)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        joint = torch.cat([features[modality] for modality in self.modalities], 1)
        return self.mm_encoder(joint) if hasattr(self, "mm_encoder") else joint

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in self.modalities}))


class LateNetwork(EarlyNetwork):
    def __init__(self, modalities: tuple[str, ...], classes: int) -> None:
        super().__init__(modalities, classes, early=False)

    def contribution(self, modality: str, feature: Tensor) -> Tensor:
        start = 8 * self.modalities.index(modality)
        return F.linear(feature, self.head.fc.weight[:, start : start + 8])


@dataclass
class Recording:
    """One golden file."""

    arrays: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, name: str) -> Recording:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return cls({key: file[key] for key in file.files})

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[key]))

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(map(str, self.arrays["modalities"]))

    @property
    def cap(self) -> float | None:
        return float(self.arrays["cap"]) if "cap" in self.arrays else None

    def state(self, when: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(f"{when}/"): self[key]
            for key in self.arrays
            if key.startswith(f"{when}/")
        }

    def network(self) -> EarlyNetwork:
        state = self.state("init")
        classes = state["head.fc.bias"].shape[0]
        early = any(key.startswith("mm_encoder") for key in state)
        net = (
            EarlyNetwork(self.modalities, classes, True)
            if early
            else LateNetwork(self.modalities, classes)
        )
        net.double().load_state_dict(state)
        return net


@dataclass
class Replay:
    """What a replay of a recording gave."""

    coefficients: Tensor
    responses: Tensor
    mean_scores: Tensor
    state: dict[str, Tensor]
    clip_calls: int


def replay(recording: Recording, coalitions: str) -> Replay:
    """Train on the recording's batches with our AGM and its optimizer and clipping."""
    net = recording.network()
    agm = AGM(recording.modalities, alpha=float(recording["alpha"]), cap=recording.cap)
    model = ModulatedModel(net, agm, coalitions=coalitions).train()
    responses: list[Tensor] = []
    evaluate = model.strategy.evaluate

    def recording_evaluate(*args: object, **kwargs: object) -> object:
        evaluation = evaluate(*args, **kwargs)  # type: ignore[arg-type]
        responses.append(evaluation.responses.detach())
        return evaluation

    model.strategy.evaluate = recording_evaluate  # type: ignore[method-assign, assignment]
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=float(recording["lr"]),
        momentum=float(recording["momentum"]),
        weight_decay=float(recording["weight_decay"]),
    )
    threshold = float(recording["grad_clip_threshold"])
    coefficients, mean_scores, clip_calls = [], [], 0
    for _ in range(int(recording["epochs"])):
        for step in range(recording["target"].shape[0]):
            inputs = {m: recording[m][step] for m in recording.modalities}
            target = recording["target"][step]
            optimizer.zero_grad()
            F.cross_entropy(model(inputs, target), target).backward()
            head_gradient = net.head.fc.weight.grad
            assert head_gradient is not None
            if head_gradient.abs().max() > threshold:
                nn.utils.clip_grad_norm_(net.parameters(), threshold)
                clip_calls += 1
            optimizer.step()
            assert agm.last_step is not None
            coefficients.append(agm.last_step.coefficients)
        mean_scores.append(agm.mean_score.clone())
    return Replay(
        torch.stack(coefficients),
        torch.stack(responses),
        torch.stack(mean_scores),
        net.state_dict(),
        clip_calls,
    )
