"""UR-Funny's pickle as memory-mapped arrays, which hold no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradmod.experiments.datasets.prepared import making, sha256, write_manifest
from gradmod.experiments.datasets.ur_funny import Content


def prepare(pickle: Path, out: Path) -> dict[str, Any]:
    """Convert the pickle once. `out` is then a root of the data set; what is read from it equals what the pickle gives.

    Args:
        pickle: the published file.
        out: folder to make; it must not exist.

    Returns:
        The manifest, which is also written.

    Raises:
        ConfigError: `out` exists.
        DataError: the pickle is missing, damaged, would run code, or does not hold what it should.
    """
    with making(out) as folder:
        content = Content.of_pickle(pickle)
        content.save(folder)
        source = {"file": pickle.name, "sha256": sha256([pickle])}
        facts = {"sizes": content.sizes, "notes": list(content.notes), "source": source}
        return write_manifest(folder, "ur-funny", facts)
