"""A network of others, wrapped as it is: a signature of its own, and a dict, a tuple or a loss of its own in return.

python examples/foreign_model.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel, Output, adapt


class PaperNet(nn.Module):
    """As it came with a paper: two arguments, and one of three kinds of answer."""

    def __init__(self, returns: str) -> None:
        super().__init__()
        self.net_a, self.net_v, self.cls = nn.Linear(20, 16), nn.Linear(30, 16), nn.Linear(32, 4)
        self.returns = returns

    def forward(
        self, audio: Tensor, image: Tensor
    ) -> Tensor | dict[str, Tensor] | tuple[Tensor, Tensor]:
        """Logits; or a dict with the features; or logits and how far apart the features are."""
        a, v = self.net_a(audio).tanh(), self.net_v(image).tanh()
        logits = self.cls(torch.cat([a, v], 1))
        if self.returns == "dict":
            return {"logits": logits, "audio_feature": a, "image_feature": v}
        return (logits, F.mse_loss(a, v)) if self.returns == "tuple" else logits


CALLS = {
    "logits": lambda net, x: net(x["audio"], x["image"]),
    "dict": lambda net, x: net(audio=x["audio"], image=x["image"])["logits"],
    "tuple": lambda net, x: with_own_loss(*net(x["audio"], x["image"])),
}


def with_own_loss(logits: Tensor, own_loss: Tensor) -> Output:
    """The paper's pair, its own loss by a name: it is added to the task's, unmodulated."""
    return Output(logits, {"own": 0.1 * own_loss})


def main(returns: str = "tuple", steps: int = 100) -> list[float]:
    """Train; return the losses."""
    torch.manual_seed(0)
    net = PaperNet(returns)
    model = ModulatedModel(adapt(net, CALLS[returns]), AGM(modalities=("audio", "image")))
    optimizer, target = torch.optim.SGD(net.parameters(), lr=0.3), torch.randint(4, (256,))
    inputs = {
        m: torch.randn(256, size) + F.one_hot(target, size)
        for m, size in (("audio", 20), ("image", 30))
    }
    losses = []
    for _ in range(steps):
        losses.append(model.training_step(inputs, target, optimizer).item())
    return losses


if __name__ == "__main__":
    print({returns: main(returns)[-1] for returns in CALLS})
