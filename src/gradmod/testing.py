"""What every training method must hold to, as one call: for the methods here, and for one of your own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod.methods.base import Method, Need
from gradmod.methods.joint import Joint
from gradmod.methods.record import ValidationFigures
from gradmod.models.fusion import EarlyFusion, LateFusion, SumFusion
from gradmod.models.mlp import MLP
from gradmod.wrapper import ModulatedModel

__all__ = ["check_method"]

MakeMethod = Callable[[Sequence[str]], Method]
NAMES = ("audio", "visual", "text", "touch", "smell", "taste")
FUSIONS: dict[str, Callable[..., Any]] = {
    "late": LateFusion,
    "sum": SumFusion,
    "early": functools.partial(EarlyFusion, hidden=(16, 8)),
}
_SIZES = dict(zip(NAMES, (5, 4, 3, 6, 2, 7), strict=True))
_CLASSES, _SAMPLES, _LR = 3, 24, 0.03


def check_method(make: MakeMethod, *, counts: Sequence[int] = (1, 2, 3, 6)) -> list[str]:
    """Check that a method trains, acts, resumes and bears what real training brings; seconds on a CPU.

    Of every number of modalities in `counts` that the method takes: a step leaves finite weights, and they are not
    those of joint training (for two or more, and unless it is `Joint`); the loss falls; training that is broken off,
    saved and loaded goes on to the same bits; between epochs the model is changed only where the method says so;
    samples may lack modalities, one of them in the whole batch; bfloat16; parts of a batch; a gradient scaler; the
    order in which modalities are named makes no difference; in eval mode the model is the network; a copy and a pickle
    of the state are independent of the original.

    Args:
        make: called with the names of the modalities; returns the method. A class of a method with defaults will do.
        counts: how many modalities are tried. A method that refuses some raises ValueError when it is made.

    Returns:
        What was checked, a line each.

    Raises:
        AssertionError: something does not hold; says what, for how many modalities and with which fusion.
        ValueError: the method takes none of the `counts`.

    Example:
        >>> from gradmod.methods import UniModalLosses
        >>> from gradmod.testing import check_method
        >>> checked = check_method(UniModalLosses, counts=(2,))
        >>> checked[0]
        '2 modalities, late fusion: trains'
    """
    checked: list[str] = []
    for count in counts:
        names = NAMES[:count]
        try:
            make(names)
        except ValueError as error:
            checked.append(f"{count} modalities: refused ({error})")
            continue
        for fusion in FUSIONS if count == 2 else ("late",):
            for check in CHECKS:
                what = f"{count} modalities, {fusion} fusion: {check.__name__.removeprefix('_').replace('_', ' ')}"
                try:
                    applies = check(make, names, fusion)
                except AssertionError as error:
                    raise AssertionError(f"{what}: does not hold: {error}") from error
                except (RuntimeError, ValueError, TypeError) as error:
                    raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
                if applies:
                    checked.append(what)
    if not any("refused" not in line for line in checked):
        raise ValueError(
            f"the method takes none of {list(counts)} modalities: {'; '.join(checked)}"
        )
    return checked


class Trainee:
    """A small model with the method, and its optimizer; the same weights at every making."""

    def __init__(
        self, make: MakeMethod, names: Sequence[str], fusion: str, *, order: Sequence[str] = ()
    ) -> None:
        torch.manual_seed(0)
        net = FUSIONS[fusion]({m: MLP(_SIZES[m], hidden=(8,)) for m in names}, _CLASSES)
        self.names, self.network = tuple(names), net
        self.model = ModulatedModel(net, make(tuple(order or names)))
        # Heads of the wrapper begin the same, in whatever order the modalities are named.
        self.model.give_heads_their_sizes(problem(names)[0])
        if self.model.heads is not None:
            with torch.no_grad():
                for number, m in enumerate(names):
                    generator = torch.Generator().manual_seed(number)
                    for parameter in self.model.heads.parameters_of(m):
                        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        if Need.TEACHERS in self.model.method.needs:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.model.take_teachers({m: MLP(_SIZES[m], hidden=(8,)) for m in names})
        self.optimizer = torch.optim.SGD(self.model.parameter_groups(), _LR, momentum=0.9)
        self.epoch = 0
        self.silent_changes: list[str] = []
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """As a training loop does: tell of the validation and the epoch, and set the learning rates."""
        if self.epoch and Need.VALIDATION in self.model.method.needs:
            names = self.model.method.modalities
            worse = {m: 0.1 * self.epoch * NAMES.index(m) for m in names}
            self.model.after_epoch(
                {m: ValidationFigures(1 + worse[m], 0.5 / (1 + worse[m])) for m in names}
            )
        self.epoch += 1
        self.tell_epoch()

    def tell_epoch(self) -> None:
        """Tell the method where training is, and the optimizer its learning rates."""
        splits = [[problem(self.names, seed=seed)] for seed in (self.epoch, 1000)]
        held_out = [problem(self.names, seed=2000)]
        before = self.between_epochs()
        changed = self.model.before_epoch(
            self.epoch,
            train=splits[0],
            validation=splits[1],
            held_out=held_out,
            optimizer=self.optimizer,
        )
        after = self.between_epochs()
        if not changed:
            self.silent_changes += [
                name
                for name in before.keys() | after.keys()
                if name not in before
                or name not in after
                or not torch.equal(before[name], after[name])
            ]
        self.model.set_learning_rate(self.optimizer, _LR)

    def between_epochs(self) -> dict[str, Tensor]:
        """What a method must leave as it is before an epoch, unless it says that it changed the model."""
        gathered = self.optimizer.state_dict()["state"]
        return {
            **self.weights(),
            **{f"buffer {n}": b.detach().clone() for n, b in self.network.named_buffers()},
            **{
                f"optimizer's {name} of parameter {number}": value.clone()
                for number, state in gathered.items()
                for name, value in state.items()
                if isinstance(value, Tensor)
            },
            "random numbers": torch.get_rng_state(),
        }

    def steps(self, count: int, **more: Any) -> list[float]:
        """Train on `count` batches, each an epoch; the losses."""
        losses = []
        for _ in range(count):
            torch.manual_seed(self.epoch)
            inputs, target = problem(self.names, seed=self.epoch)
            losses.append(float(self.model.training_step(inputs, target, self.optimizer, **more)))
            self.begin_epoch()
        return losses

    def weights(self) -> dict[str, Tensor]:
        """Every parameter by name."""
        return {
            name: parameter.detach().clone() for name, parameter in self.model.named_parameters()
        }

    def network_weights(self) -> dict[str, Tensor]:
        """The network's own alone."""
        return {
            name: parameter.detach().clone() for name, parameter in self.network.named_parameters()
        }


def problem(names: Sequence[str], seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """A batch whose classes can be read from every modality, from the first ones better."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(_CLASSES, (_SAMPLES,), generator=generator)
    inputs = {}
    for m in names:
        noise = torch.randn(_SAMPLES, _SIZES[m], generator=generator)
        codes = torch.randn(
            _CLASSES, _SIZES[m], generator=torch.Generator().manual_seed(NAMES.index(m))
        )
        inputs[m] = 2 / (1 + NAMES.index(m)) * codes[target] + noise
    return inputs, target


def _trains(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    trainee = Trainee(make, names, fusion)
    losses = trainee.steps(12)
    _expect_finite(trainee.weights())
    assert min(losses[1:]) < losses[0], (
        f"the loss began at {losses[0]:.3g} and never fell below in 12 steps"
    )
    return True


def _is_not_joint_training(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    trainee, joint = Trainee(make, names, fusion), Trainee(Joint, names, fusion)
    if len(names) < 2 or type(trainee.model.method) is Joint:
        return False
    trainee.steps(6)
    joint.steps(6)
    assert _distance(trainee.network_weights(), joint.network_weights()) > 0, (
        "after six steps the network is that of joint training, to the bit: the method did nothing"
    )
    return True


def _resumes_exactly(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    whole, broken = Trainee(make, names, fusion), Trainee(make, names, fusion)
    whole.steps(6)
    broken.steps(3)
    saved = copy.deepcopy((broken.model.state_dict(), broken.optimizer.state_dict()))
    resumed = Trainee(make, names, fusion)
    resumed.model.load_state_dict(saved[0])
    resumed.optimizer.load_state_dict(saved[1])
    resumed.epoch = broken.epoch
    resumed.tell_epoch()
    resumed.steps(3)
    distance = _distance(whole.weights(), resumed.weights())
    assert distance == 0, (
        f"training that was broken off, saved and loaded ends {distance:.3g} away: what the method remembers belongs "
        "into buffers, or into `memory`"
    )
    return True


def _changes_the_model_between_epochs_only_where_it_says_so(
    make: MakeMethod, names: Sequence[str], fusion: str
) -> bool:
    trainee = Trainee(make, names, fusion)
    trainee.steps(4)
    changes = sorted(set(trainee.silent_changes))
    assert not changes, (
        f"before_epoch returned False, and changed {', '.join(changes[:3])}: it must return whether the model was "
        "changed, and put back what it only tried"
    )
    return True


def _bears_missing_modalities(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    trainee = Trainee(make, names, fusion)
    some = {
        m: torch.rand(_SAMPLES, generator=torch.Generator().manual_seed(n)) > 0.3
        for n, m in enumerate(names)
    }
    none = {names[-1]: torch.zeros(_SAMPLES, dtype=torch.bool)}
    for present in (some, none, some):
        trainee.steps(1, present=present)
        _expect_finite(trainee.weights())
    return True


def _bears_bfloat16(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    trainee = Trainee(make, names, fusion)
    with torch.autocast("cpu", torch.bfloat16):
        trainee.steps(3)
    _expect_finite(trainee.weights())
    return True


def _gathers_parts_of_a_batch(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    trainee = Trainee(make, names, fusion)
    if trainee.model.method.takes_turns:
        return False
    before = trainee.weights()
    trainee.steps(1, accumulate=2)
    assert _distance(before, trainee.weights()) == 0, (
        "the optimizer stepped before the last part of a batch"
    )
    trainee.steps(1, accumulate=2)
    assert _distance(before, trainee.weights()) > 0, (
        "the optimizer did not step after the last part of a batch"
    )
    _expect_finite(trainee.weights())
    return True


def _is_the_same_under_a_scaler(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    plain, scaled = Trainee(make, names, fusion), Trainee(make, names, fusion)
    plain.steps(3)
    scaled.steps(3, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    distance = _distance(plain.weights(), scaled.weights())
    assert distance < 1e-4, (
        f"a scaled loss leads {distance:.3g} away: gradients must be unscaled once"
    )
    return True


def _does_not_care_for_the_order_of_modalities(
    make: MakeMethod, names: Sequence[str], fusion: str
) -> bool:
    if len(names) < 2 or make(names).takes_turns:
        return False
    one, other = Trainee(make, names, fusion), Trainee(make, names, fusion, order=names[::-1])
    for trainee in (one, other):
        if getattr(trainee.model.method, "noise", False):  # drawn for one parameter after the other
            setattr(trainee.model.method, "noise", False)  # noqa: B010
    one.steps(4)
    other.steps(4)
    distance = _distance(one.weights(), other.weights())
    assert distance < 1e-4, (
        f"with the modalities named the other way round the weights end {distance:.3g} away"
    )
    return True


def _is_the_network_in_eval_mode(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    trainee = Trainee(make, names, fusion)
    trainee.steps(2)
    model = trainee.model.eval()
    inputs, _ = problem(names)
    with torch.no_grad():
        ours, theirs = model(inputs), model.model(inputs)
    assert torch.equal(ours, theirs), "in eval mode the model answers otherwise than its network"
    return True


def _can_be_copied(make: MakeMethod, names: Sequence[str], fusion: str) -> bool:
    trainee = Trainee(make, names, fusion)
    trainee.steps(2)
    before = trainee.weights()
    copied = copy.deepcopy(trainee)
    copied.steps(2)
    assert _distance(before, trainee.weights()) == 0, "training a copy changed the original"
    trainee.steps(2)
    assert _distance(trainee.weights(), copied.weights()) == 0, (
        "a copy trains otherwise than the original"
    )
    return True


CHECKS = (
    _trains,
    _is_not_joint_training,
    _resumes_exactly,
    _changes_the_model_between_epochs_only_where_it_says_so,
    _bears_missing_modalities,
    _bears_bfloat16,
    _gathers_parts_of_a_batch,
    _is_the_same_under_a_scaler,
    _does_not_care_for_the_order_of_modalities,
    _is_the_network_in_eval_mode,
    _can_be_copied,
)


def _expect_finite(weights: Mapping[str, Tensor]) -> None:
    bad = [name for name, weight in weights.items() if not weight.isfinite().all()]
    assert not bad, f"weights are not finite: {', '.join(bad[:3])}"


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
