"""Pictures that a command writes beside its answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tameopt.picture import Picture

PictureFile = Annotated[
    Path | None, typer.Option("--picture", help="Write pictures here (.png, .svg, .pdf).", show_default=False)
]


def write_pictures(pictures: Sequence[Picture], path: Path) -> None:
    """Draw the pictures side by side into one file, each with its caption.

    Raises MissingExtraError without matplotlib, ValueError for a kind of file it does not write.
    """
    import textwrap

    from tameopt.extras import require
    from tameopt.report.plots import draw
    from tameopt.report.text import symbols

    figure: Any = require("matplotlib.figure", "a picture").Figure(
        figsize=(5.6 * len(pictures), 4.6), layout="constrained"
    )
    for picture, axes in zip(pictures, figure.subplots(1, len(pictures), squeeze=False)[0], strict=True):
        draw(picture, axes)
        caption = textwrap.fill(symbols(picture.caption), 68)
        axes.set_xlabel(f"{axes.get_xlabel()}\n\n{caption}", fontsize=8.5)
    figure.savefig(path, dpi=150)
