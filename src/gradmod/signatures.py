"""What a network's forward takes, and the line of `gradmod.adapt` for one that does not take a dict of inputs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def forward_parameters(net: nn.Module) -> tuple[inspect.Parameter, ...] | None:
    """Arguments of the network's forward without `self`; None where Python cannot tell them.

    Wrappers that hand every argument on (compiled, for several processes) are looked through.
    """
    inner = getattr(net, "_orig_mod", None) or getattr(net, "module", None)
    if isinstance(inner, nn.Module):
        return forward_parameters(inner)
    try:
        return tuple(inspect.signature(net.forward).parameters.values())
    except (TypeError, ValueError):
        return None


def required_arguments(net: nn.Module) -> tuple[str, ...]:
    """Names of the arguments that the network's forward cannot do without."""
    named = (p for p in forward_parameters(net) or () if p.kind not in _ANY_NUMBER)
    return tuple(p.name for p in named if p.default is p.empty)


def written_arguments(net: nn.Module) -> str:
    """The arguments of the network's forward as in its definition, without annotations."""
    parameters = forward_parameters(net)
    if parameters is None:
        return "arguments of its own"
    return f"({', '.join(str(p.replace(annotation=p.empty)) for p in parameters)})"


def takes_inputs_apart(net: nn.Module, names: Sequence[str]) -> bool:
    """Whether the forward surely takes inputs one by one, and not a dict of them: `net(audio, visual)`, `net(**batch)`.

    Args:
        net: the network.
        names: of the inputs.
    """
    parameters = forward_parameters(net)
    if not parameters:
        return False
    if len(required_arguments(net)) > 1 or all(p.kind is p.VAR_KEYWORD for p in parameters):
        return True
    return len(parameters) > 1 and any(p.name in names for p in parameters)


def adapt_line(net: nn.Module, names: Sequence[str]) -> str:
    """A line to paste: `gradmod.adapt` with the real arguments of the network's forward, filled from the inputs.

    An argument that has no input of its name gets the next one that no argument is named after, in order; `...` stands
    where there is none left.

    Args:
        net: the network.
        names: of the inputs.
    """
    parameters = forward_parameters(net) or ()
    own = {p.name for p in parameters}
    left = [name for name in names if name not in own]
    arguments = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            arguments += [_read(name) for name in left]
            left = []
        elif p.kind is p.VAR_KEYWORD:
            arguments += [f"{name}={_read(name)}" for name in left if name.isidentifier()]
            left = []
        elif p.name in names or p.default is p.empty:
            value = _read(p.name) if p.name in names else _read(left.pop(0)) if left else "..."
            arguments.append(value if p.kind is p.POSITIONAL_ONLY else f"{p.name}={value}")
    if len(own) == 1 and len(names) > 1 and parameters[0].kind not in _ANY_NUMBER:
        # One argument for several inputs: only the user knows how they are joined.
        arguments = ["..."]
    return f"model = gradmod.adapt(net, call=lambda net, inputs: net({', '.join(arguments)}))"


def refuse_foreign(net: nn.Module, names: Sequence[str]) -> None:
    """Raise TypeError, with the line that adapts it, where the forward takes the inputs one by one."""
    if takes_inputs_apart(net, names):
        raise TypeError(_message(net, names, "which is no dict of inputs by modality"))


@contextmanager
def explained(net: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Around the first call of a network with a dict of inputs: say how it is called, should that be what fails.

    Raises:
        TypeError: the call failed as calls with other arguments do; the network's own error is its cause.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise TypeError(
            _message(net, names, f"and failed on the dict of inputs ({reason})")
        ) from error


def _message(net: nn.Module, names: Sequence[str], what: str) -> str:
    return (
        f"the forward of {type(net).__name__} takes {written_arguments(net)}, {what}; gradmod calls a network with one "
        f"dict that holds {', '.join(map(repr, names))}. Adapt it (check which input is which):\n"
        f"    {adapt_line(net, names)}"
    )


def _read(name: str) -> str:
    return f"inputs[{json.dumps(name)}]"
