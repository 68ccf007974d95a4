"""Methods that begin with, or learn from, encoders that were trained on one modality alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gradmod.methods.base import Method, Need

Teacher = nn.Module | Mapping[str, Tensor]
"""An encoder that was trained alone, or its state dict."""


class TaughtMethod(Method):
    """A method that needs mono-modal encoders before its first step: `ModulatedModel.take_teachers`.

    Args:
        modalities: names of the inputs.

    Attributes:
        has_teachers: whether it was given them; part of the state, so that a run that is resumed needs them no more.
    """

    needs = frozenset({Need.FEATURES, Need.MODULES, Need.TEACHERS})

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(modalities)
        self.has_teachers = False

    def take_teachers(self, teachers: Mapping[str, Teacher]) -> None:
        """See `Method.take_teachers`."""
        missing = [m for m in self.modalities if m not in teachers]
        if missing or len(teachers) > len(self.modalities):
            raise ValueError(
                f"teachers are given for {list(teachers)}; expected one for each of {list(self.modalities)}"
            )
        self._use({m: self._state_of(teachers[m], m) for m in self.modalities})
        self.has_teachers = True

    def _use(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        """Do what there is to do with the teachers' parameters and buffers, by modality and name."""
        raise NotImplementedError

    def _encoder(self, modality: str) -> nn.Module:
        return self._modules_of[modality][0]

    def _state_of(self, teacher: Teacher, modality: str) -> dict[str, Tensor]:
        """Parameters and buffers of a teacher, in the names and shapes of the network's encoder."""
        given: Mapping[str, Any] = (
            teacher.state_dict() if isinstance(teacher, nn.Module) else teacher
        )
        own = {
            name: value
            for name, value in self._encoder(modality).state_dict().items()
            if isinstance(value, Tensor)
        }
        missing = [name for name in own if name not in given]
        unknown = [name for name in given if name not in own and isinstance(given[name], Tensor)]
        if missing or unknown:
            raise ValueError(
                f"the teacher of {modality!r} lacks {missing[:3]} and has {unknown[:3]} beside; expected the state "
                f"dict of its encoder alone, with the names {list(own)[:3]}, ..."
            )
        for name, tensor in own.items():
            if not nn.parameter.is_lazy(tensor) and given[name].shape != tensor.shape:
                raise ValueError(
                    f"{name} of the teacher of {modality!r} is {list(given[name].shape)}; expected "
                    f"{list(tensor.shape)}, as in the network's encoder"
                )
        return {name: given[name].detach() for name in own}

    def memory(self) -> dict[str, Any]:
        """Whether there are teachers."""
        return {"has_teachers": self.has_teachers}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self.has_teachers = bool(memory["has_teachers"])
