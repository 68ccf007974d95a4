"""Every method by name, from the files that hold their blocks; naming them imports no torch."""

from __future__ import annotations

from gradmod.experiments.methods import between_epochs, forward, modulating, own_losses, taught
from gradmod.experiments.methods.entry import MethodEntry

METHODS = {
    entry.name: entry
    for blocks in (modulating, own_losses, forward, between_epochs, taught)
    for entry in vars(blocks).values()
    if isinstance(entry, MethodEntry)
}
