"""Fixtures that every part of the suite shares."""

from __future__ import annotations

import os

# Tests run beside each other: with one thread each they do not fight for the cores. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# In a background job Ctrl-C is ignored, which the processes that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test may depend on how fast the machine is.
settings.register_profile("gradmod", deadline=None)
settings.load_profile("gradmod")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that lies beside the checkout (or at $GRADMOD_SHARED_DATA); skips where absent."""
    folder = Path(os.environ.get("GRADMOD_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "avmnist-small").is_dir():
        pytest.skip(
            f"real data not found at {folder}: set GRADMOD_SHARED_DATA to the folder that holds avmnist-small/"
        )
    return folder
