"""How a figure becomes a file, or part of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gradmod.experiments.files import write_atomically
from gradmod.experiments.reporting.style import GRID_COLOUR, MODEL_COLOUR, PALETTE, RC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_DPI = 200


def save_figure(make: Callable[[], Figure], path: Path) -> Path:
    """Draw a figure in the style of all of them and write it as SVG at `path` and as PNG beside it; return `path`.

    The same figure gives the same SVG to the byte.
    """
    import matplotlib

    with matplotlib.rc_context(RC):
        figure = make()
        write_atomically(
            path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None})
        )
        write_atomically(
            path.with_suffix(".png"),
            lambda file: figure.savefig(
                file, format="png", dpi=PNG_DPI, metadata={"Software": None}
            ),
        )
    return path


def inline_svg(make: Callable[[], Figure], name: str) -> str:
    """A figure as an SVG element of a page, text and grid in the page's own colours.

    Args:
        make: draws it.
        name: unlike that of other figures of the page; it is read to those who cannot see the figure.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({**RC, "savefig.transparent": True}):
        make().savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # What would be hard to see on a dark page is drawn in colours that the page chooses.
    for colour, chosen in (
        (MODEL_COLOUR, "currentColor"),
        ("#000000", "currentColor"),
        (GRID_COLOUR, "var(--line)"),
    ):
        text = text.replace(colour, chosen)
    text = text.replace(PALETTE[0].lower(), "var(--blue)")
    # Identifiers are counted up within a figure: two on one page must not share them.
    text = re.sub(r'(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    label = name.replace("-", " ")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', text, count=1)


def whole_ticks(axes: Axes) -> None:
    """Ticks at whole numbers of the x axis only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
