"""AGM in other people's loops: they run, they modulate as a plain loop does, and the documentation's diffs are true."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import ROOT
from processes import torchrun

EXAMPLES = ROOT / "examples"
LOOPS = ("plain_loop", "lightning_module", "hf_trainer", "accelerate_loop", "ddp_torchrun")
SETTINGS: dict[str, dict[str, object]] = {
    "lightning_module": {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "hf_trainer": {
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    },
}
pytestmark = [
    # Of Lightning, Transformers and Accelerate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # Lightning's advice; the data is in memory.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*lightning.*"),
]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)


def diffs() -> dict[str, list[str]]:
    """Lines of each diff of docs/loops.md, by the example's name."""
    blocks = re.findall(
        r"```diff\n--- examples/(\w+)\.py\n(.*?)```", (ROOT / "docs" / "loops.md").read_text(), re.S
    )
    return {name: lines.splitlines() for name, lines in blocks}


def without_agm(name: str) -> str:
    """The example with its diff applied backwards: joint training."""
    source = (EXAMPLES / f"{name}.py").read_text()
    removed: list[str] = []
    for line in diffs()[name]:
        if line.startswith("-"):
            removed.append(line[1:])
        else:
            assert line.startswith("+")
            assert source.count(f"\n{line[1:]}\n") == 1, f"{name}.py has no line {line[1:]!r}"
            source = source.replace(
                f"\n{line[1:]}\n", "".join(f"\n{old}" for old in removed) + "\n"
            )
            removed = []
    assert not removed
    return source


def train(module: str, name: str, epochs: int = 2) -> nn.Module:
    found = importlib.import_module(module).main(epochs=epochs, **SETTINGS.get(name, {}))
    model = found[0] if isinstance(found, tuple) else found
    assert isinstance(model, nn.Module)
    return model


def trained_state(module: str, name: str, folder: Path) -> dict[str, torch.Tensor]:
    """What `train` gives, as a state dict. Transformers looks for a package `datasets`, and would find our folder of
    that name: it has a process of its own."""
    if name != "hf_trainer":
        return train(module, name).state_dict()
    code = (
        f"import sys, torch; sys.path[:0] = [{str(EXAMPLES)!r}, {str(folder)!r}]; import {module}; "
        f"torch.save({module}.main(epochs=2, **{SETTINGS[name]!r})[0].state_dict(), 'trained.pt')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, torch.Tensor] = torch.load("trained.pt", weights_only=True)
    return loaded


@pytest.mark.parametrize("name", LOOPS)
def test_two_or_three_lines_are_all_that_changes(name: str) -> None:
    changed = [
        line
        for line in diffs()[name]
        if line.startswith("+") and not line.startswith("+from gradmod")
    ]
    assert 2 <= len(changed) <= 3
    joint = without_agm(name)
    assert "gradmod" not in re.sub(r'""".*?"""', "", joint, flags=re.S)
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "hf_trainer" else name
        for name in LOOPS
        if name != "ddp_torchrun"
    ],
)
def test_with_the_diff_it_modulates_and_without_it_trains_jointly(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = trained_state(name, name, tmp_path)
    assert (ours["method.steps"] >= 16).all()
    (tmp_path / f"joint_{name}.py").write_text(without_agm(name))
    monkeypatch.syspath_prepend(str(tmp_path))
    joint = trained_state(f"joint_{name}", name, tmp_path)
    of_network = {
        key.removeprefix("model."): value for key, value in ours.items() if key.startswith("model.")
    }
    assert of_network.keys() == joint.keys()
    assert any(not torch.allclose(of_network[key], joint[key], atol=1e-5) for key in joint)


@pytest.mark.parametrize("name", ["lightning_module", "accelerate_loop"])
def test_a_loop_of_others_trains_as_the_plain_one_does(name: str) -> None:
    expected = train("plain_loop", "plain_loop").state_dict()
    for key, value in train(name, name).state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)


def run_on_two(script: Path, *words: str) -> None:
    done = subprocess.run(
        [*torchrun(), str(script), *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_ddp_under_torchrun_trains_as_one_process_does(tmp_path: Path) -> None:
    run_on_two(EXAMPLES / "ddp_torchrun.py", "--epochs", "2", "--save", str(tmp_path / "state.pt"))
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    plain = train("plain_loop", "plain_loop").state_dict()
    assert saved.keys() == plain.keys()
    for key, value in saved.items():
        torch.testing.assert_close(value, plain[key], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_ddp_without_the_diff_trains_jointly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "joint.py"
    script.write_text(without_agm("ddp_torchrun"))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    run_on_two(script, "--epochs", "2", "--save", str(tmp_path / "state.pt"))
    joint = torch.load(tmp_path / "state.pt", weights_only=True)
    modulated = train("plain_loop", "plain_loop").state_dict()
    assert any(
        not torch.allclose(value, modulated[f"model.{key}"], atol=1e-5)
        for key, value in joint.items()
    )


def test_lightning_saves_and_goes_on(tmp_path: Path) -> None:
    module = importlib.import_module("lightning_module")
    import lightning as L
    from torch.utils.data import DataLoader

    def trainer(epochs: int) -> L.Trainer:
        return L.Trainer(
            max_epochs=epochs,
            default_root_dir=tmp_path,
            logger=False,
            **SETTINGS["lightning_module"],
        )  # type: ignore[arg-type]

    def fit(epochs: int, seed: int, checkpoint: Path | None = None) -> tuple[nn.Module, L.Trainer]:
        L.seed_everything(seed, verbose=False)
        classifier, used = module.Classifier(), trainer(epochs)
        loader = DataLoader(module.data(128), batch_size=64)
        used.fit(classifier, loader, loader, ckpt_path=checkpoint, weights_only=True)
        return classifier.model, used

    whole, _ = fit(4, seed=0)
    _, first = fit(2, seed=0)
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(4, seed=9, checkpoint=tmp_path / "half.ckpt")
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


IN_TRAINER = """
import json, sys
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
sys.path[:0] = [{examples!r}]
import hf_trainer, hf_trainer_gradients as example
from clip_towers import TwoTowers, data
from gradmod import OGMGE, ModulatedModel

quiet = {settings!r}
found = {{"order": []}}

def noted(owner, name, word):
    plain = getattr(owner, name)
    def call(*arguments, **more):
        found["order"].append(word)
        return plain(*arguments, **more)
    setattr(owner, name, call)
    return lambda: setattr(owner, name, plain)

from accelerate import Accelerator
undo = [noted(OGMGE, "change_gradients", "method"), noted(Accelerator, "clip_grad_norm_", "clip"),
        noted(torch.optim.SGD, "step", "step")]
example.main(epochs=1, optim="sgd", gradient_accumulation_steps=2, per_device_train_batch_size=64, **quiet)
[back() for back in undo]

# The whole data as one batch: the order of the samples makes no difference.
whole = dict(optim="sgd", lr_scheduler_type="constant", per_device_train_batch_size=256, max_grad_norm=0.05, **quiet)
trained, _ = example.main(epochs=3, **{{**whole, "learning_rate": 0.5}})
torch.manual_seed(0)
example.ForTrainer()  # draws what the example's drew
by_hand = ModulatedModel(TwoTowers(), OGMGE(("image", "text"), noise=False))
optimizer = torch.optim.SGD(by_hand.parameters(), 0.5)
rows = data()
batch = {{key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}}
inputs = {{"image": batch["pixel_values"], "text": {{key: batch[key] for key in ("input_ids", "attention_mask")}}}}
for _ in range(3):
    optimizer.zero_grad()
    nn.functional.cross_entropy(by_hand(inputs, batch["labels"]), batch["labels"]).backward()
    by_hand.after_backward()
    nn.utils.clip_grad_norm_(by_hand.parameters(), 0.05)
    optimizer.step()
expected = by_hand.state_dict()
found["off"] = max(float((value - expected[key]).abs().max()) for key, value in trained.state_dict().items()
                   if value.is_floating_point())
found["changed"] = min(by_hand.last_step.coefficients.tolist()) < 0.9

def own_loss(outputs, labels, **more):
    return nn.functional.cross_entropy(outputs["logits"], labels, label_smoothing=0.1)

def without_labels():
    arguments = TrainingArguments("out", report_to=[], **quiet)
    Trainer(hf_trainer.ForTrainer(), arguments, train_dataset=rows, compute_loss_func=own_loss).train()

def without_the_hook():
    example.main(epochs=1, trainer=Trainer, **quiet)

for call in (without_the_hook, without_labels):
    try:
        call()
    except Exception as error:
        found[call.__name__] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(found))
"""


def test_a_method_that_changes_gradients_in_the_trainer_and_labels_that_it_takes_away(
    tmp_path: Path,
) -> None:
    code = IN_TRAINER.format(examples=str(EXAMPLES), settings=SETTINGS["hf_trainer"])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["order"] == ["method", "clip", "step"] * 2
    assert found["off"] < 1e-5
    assert found["changed"]
    left_out = "RuntimeError: OGMGE changes gradients, but an optimizer step was made without it"
    assert found["without_the_hook"].startswith(left_out)
    assert found["without_labels"].startswith("ValueError: target is None in train mode")
    assert "label_smoothing_factor" in found["without_labels"]


@pytest.mark.parametrize("returns", ["logits", "dict", "tuple"])
def test_a_foreign_network_trains_as_it_is(returns: str) -> None:
    losses = importlib.import_module("foreign_model").main(returns)
    assert losses[-1] < 0.5 * losses[0]


def test_numbers_in_place_of_classes() -> None:
    model, error = importlib.import_module("regression").main(epochs=20)
    assert error < 0.25  # the best constant is off by 0.8
    assert model.last_step.coefficients.shape == (3,)


def test_a_task_of_ones_own() -> None:
    model, error = importlib.import_module("own_task").main(epochs=20)
    assert error < 0.1  # the best constant is off by 0.4
    assert (model.last_step.coefficients != 1).any()


def test_every_example_is_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        if path.name != "blending.py":  # a method with its paper's weights, not a loop
            assert len(path.read_text().splitlines()) < 80, path.name


def test_lightning_calls_a_method_that_changes_gradients_once_a_step() -> None:
    """OGM-GE by the documented hook, with gradients gathered over two batches, equals the plain loop."""
    hook = re.search(
        r"In Lightning in `(on_\w+)`; with Accelerate", (ROOT / "docs" / "loops.md").read_text()
    )
    assert hook is not None
    module, plain = (
        importlib.import_module("lightning_module"),
        importlib.import_module("plain_loop"),
    )
    import lightning as L
    from torch.utils.data import DataLoader

    from gradmod import OGMGE, ModulatedModel, adapt

    def modulated() -> ModulatedModel:
        torch.manual_seed(0)
        net = plain.Net()
        adapted = adapt(
            net, lambda net, x: net(x), encoders={"audio": net.audio, "visual": net.visual}
        )
        return ModulatedModel(adapted, OGMGE(("audio", "visual"), noise=False))

    class Classifier(module.Classifier):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = modulated()

    setattr(Classifier, hook[1], lambda self, optimizer: self.model.after_backward())
    classifier = Classifier()
    trainer = L.Trainer(
        max_epochs=1,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        **SETTINGS["lightning_module"],
    )  # type: ignore[arg-type]
    trainer.fit(
        classifier,
        DataLoader(plain.data(), batch_size=64),
        DataLoader(plain.data(64), batch_size=64),
    )
    expected = modulated()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for number, (audio, visual, target) in enumerate(DataLoader(plain.data(), batch_size=64), 1):
        (
            nn.functional.cross_entropy(
                expected({"audio": audio, "visual": visual}, target), target
            )
            / 2
        ).backward()
        if number % 2 == 0:
            expected.after_backward()
            optimizer.step()
            optimizer.zero_grad()
    for key, value in classifier.model.model.state_dict().items():
        torch.testing.assert_close(value, expected.model.state_dict()[key], rtol=0, atol=1e-6)
