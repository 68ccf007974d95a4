"""Ctrl-C and the wish to end: caught where nobody else has them, and only for as long as training lasts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from gradmod.experiments.training.interrupts import Interrupts

USUAL: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in USUAL}
    for number, handler in USUAL.items():
        signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", USUAL)
def test_the_usual_handlers_wait_for_the_step_and_come_back(number: int) -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.requested
        assert {n: signal.getsignal(n) for n in USUAL} == USUAL  # a second one acts as usual
    with Interrupts() as interrupts:
        assert not interrupts.requested
    assert {n: signal.getsignal(n) for n in USUAL} == USUAL


@pytest.mark.parametrize("number", USUAL)
def test_what_is_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with Interrupts() as interrupts:
        assert signal.getsignal(number) is signal.SIG_IGN
        os.kill(os.getpid(), number)
        assert not interrupts.requested
        others = [n for n in USUAL if n != number]
        assert all(signal.getsignal(n) != USUAL[n] for n in others)
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("number", USUAL)
def test_a_handler_of_the_program_is_left_to_it(number: int) -> None:
    seen: list[int] = []

    def handler(number: int, frame: object) -> None:
        seen.append(number)

    signal.signal(number, handler)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        assert seen == [number]
        assert not interrupts.requested
    assert signal.getsignal(number) is handler
