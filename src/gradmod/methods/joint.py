"""Joint training: the plain multi-modal baseline ("Normal" in the paper's code)."""

from __future__ import annotations

from gradmod.methods.base import Method


class Joint(Method):
    """Plain training of all modalities together: the forward and the gradients are the model's own."""
