"""The network for AVE against its published size and an independent computation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradmod import AGM, Classification, ModulatedModel, Output
from gradmod.models.psp import PositiveSamplePropagation, similarity_loss


def small() -> PositiveSamplePropagation:
    torch.manual_seed(0)
    return PositiveSamplePropagation(
        5, audio=6, visual=7, positions=4, width=3, attention=8, bottleneck=9, hidden=4
    ).double()


def batch(samples: int = 3, segments: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    audio, visual = (
        torch.randn(samples, segments, 6).double(),
        torch.randn(samples, segments, 2, 2, 7).double(),
    )
    return {
        "audio": audio,
        "visual": visual,
        "event": (torch.rand(samples, segments) < 0.5).double(),
    }


def lstm(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A bidirectional LSTM over one sequence [T, F], step by step."""
    halves = []
    for suffix in ("", "_reverse"):
        w, u = p[f"{name}.weight_ih_l0{suffix}"], p[f"{name}.weight_hh_l0{suffix}"]
        b = p[f"{name}.bias_ih_l0{suffix}"] + p[f"{name}.bias_hh_l0{suffix}"]
        h = c = torch.zeros(u.shape[1], dtype=x.dtype)
        out = []
        for step in x if not suffix else x.flip(0):
            i, f, g, o = (w @ step + u @ h + b).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        halves.append(torch.stack(out if not suffix else out[::-1]))
    return torch.cat(halves, 1)


def by_hand(net: PositiveSamplePropagation, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits and resemblance in eval mode, one video and one segment at a time, from the parameters alone."""
    p = net.state_dict()
    logits, alike = [], []
    for audio, maps in zip(inputs["audio"], inputs["visual"].flatten(2, 3), strict=True):
        heard = audio @ p["audio_in.0.weight"].T @ p["audio_in.1.weight"].T
        seen = []
        for sound, places in zip(heard, maps, strict=True):
            from_audio = (
                p["attention.from_audio.weight"] @ sound + p["attention.from_audio.bias"]
            ).relu()
            offsets = p["attention.audio_scores.weight"] @ from_audio
            scores = []
            for number, place in enumerate(places):
                from_visual = (
                    p["attention.from_visual.weight"] @ place + p["attention.from_visual.bias"]
                ).relu()
                row = p["attention.visual_scores.weight"] @ from_visual + offsets[number]
                scores.append(p["attention.score.weight"][0] @ row.tanh())
            seen.append(
                sum(
                    w * place
                    for w, place in zip(torch.stack(scores).softmax(0), places, strict=True)
                )
            )
        seen_in = torch.stack(seen) @ p["visual_in.0.weight"].T @ p["visual_in.1.weight"].T
        a, v = lstm(p, "audio_sequence", heard), lstm(p, "visual_sequence", seen_in)
        branch = {key: (x @ p[f"propagation.{key}.weight"].T).relu() for key, x in
                  (("audio_key", a), ("audio_query", a), ("visual_key", v), ("visual_query", v))}  # fmt: skip
        resemblance = (branch["visual_query"] @ branch["audio_key"].T / a.shape[1] ** 0.5).relu()

        def learnt(rows: Tensor, values: Tensor) -> Tensor:
            out = []
            for row in rows:
                share = row / (row.sum() + 1e-8)
                share = share * (share > 0.099)
                out.append((share / (share.sum() + 1e-8)) @ values)
            return torch.stack(out)

        v2, a2 = (
            v + learnt(resemblance, branch["audio_query"]),
            a + learnt(resemblance.T, branch["visual_key"]),
        )
        ends = []
        for key, x in (("audio_out", a2), ("visual_out", v2)):
            y = (x @ p[f"propagation.{key}.weight"].T).relu()
            y = (y - y.mean(1, keepdim=True)) / (
                y.var(1, unbiased=False, keepdim=True) + 1e-6
            ).sqrt()
            ends.append(y * p["propagation.norm.weight"] + p["propagation.norm.bias"])
        logits.append(
            (((ends[0] + ends[1]) / 2) @ p["hidden.weight"].T).relu() @ p["head.weight"].T
        )
        alike.append(
            torch.stack([(x @ y) / (x.norm() * y.norm()) for x, y in zip(*ends, strict=True)])
        )
    return torch.stack(logits), torch.stack(alike)


def test_it_equals_an_independent_computation() -> None:
    net = small().eval()
    expected, _ = by_hand(net, batch())
    torch.testing.assert_close(net(batch()), expected, rtol=1e-10, atol=1e-10)


def test_the_similarity_loss_equals_an_independent_computation() -> None:
    net, inputs = small(), batch()
    net.propagation.dropout.p = 0.0
    inputs["event"][0] = 0
    output = net(inputs)
    assert isinstance(output, Output)
    _, alike = by_hand(net, inputs)
    total = 0.0
    for row, event in zip(alike.relu(), inputs["event"], strict=True):
        n = int(event.sum())
        for share, there in zip(row / (row.sum() + 1e-8), event, strict=True):
            total += float((share - (there / n if n else 0.0)) ** 2)
    assert float(output.losses["similarity"].detach()) == pytest.approx(
        100 * total / alike.numel(), rel=1e-6
    )


def test_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = PositiveSamplePropagation()
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_667_251 - 118_594


def test_without_an_event_training_is_an_error() -> None:
    inputs = batch()
    del inputs["event"]
    small().eval()(inputs)
    with pytest.raises(ValueError, match=r"inputs lack 'event' \[B, T\]"):
        small()(inputs)


def test_agm_modulates_the_logits_and_not_the_similarity_loss() -> None:
    net, inputs = small(), batch()
    net.propagation.dropout.p = 0.0
    # 5 segments and 5 classes: which axis is which must be said.
    task = Classification(class_axis=-1)
    model = ModulatedModel(net, AGM(("audio", "visual"), alpha=3.0), task=task)
    target = torch.randint(5, (3, 5))
    assert model.strategy.name == "batched"
    output = model(inputs, target)
    assert isinstance(output, Output)
    output.losses["similarity"].backward()
    modulated = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    plain = net(inputs)
    plain.losses["similarity"].backward()
    for ours, theirs in zip(
        modulated, (p.grad for p in net.parameters() if p.grad is not None), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_perfect_resemblance_costs_nothing() -> None:
    features = torch.randn(2, 4, 3)
    event = torch.ones(2, 4)
    assert float(similarity_loss(features, features, event)) == pytest.approx(0, abs=1e-12)
