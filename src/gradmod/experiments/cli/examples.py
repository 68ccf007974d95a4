"""The examples that --help of a command ends with."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "--dataset av-digits --method agm --alpha 0.3",
        "--preset avmnist-quick --root FOLDER",
        "--config runs/RUN/config.toml --seed 1 --name again",
    ),
    "resume": ("", "runs/RUN --epochs 60", "runs/RUN --root FOLDER"),
    "evaluate": ("", "runs/RUN --split validation --checkpoint last"),
    "compare": (
        "--methods joint,agm,ogm-ge --seeds 0,1,2",
        "--preset avmnist-quick --root FOLDER --methods joint agm --seeds 0 1 2",
        "--methods agm --tune agm.alpha=0.1,0.3,1 joint.lr=0.003,0.01,0.03",
    ),
    "attribute": ("", "runs/RUN --split validation --noise-levels 0,1"),
    "competition": ("", "runs/RUN --concept features"),
    "report": ("", "runs/ONE runs/OTHER --out page.html"),
    "check": ("av-mnist FOLDER", "npz FILE.npz", "mosei FOLDER --labels emotions"),
    "list": ("", "agm"),
}
"""Of each command; the words behind its name."""


def examples(name: str) -> str:
    """What --help of a command says last."""
    return "".join(
        [
            "\nexamples:\n",
            *(f"  gradmod {name} {words}".rstrip() + "\n" for words in EXAMPLES[name]),
        ]
    )
