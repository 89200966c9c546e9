"""How long does it take to show a diagnosis, and how large is the page?

The peer is the same picture drawn by matplotlib's SVG backend in this process. Usage:

    python benchmarks/report.py [RUN]      an audited run; without one, `quadratic` is audited first
"""

from __future__ import annotations

import io
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import tameopt
from tameopt.audit.diagnosis import Diagnosis
from tameopt.report import draw, draw_svg, dumps, render, to_html, to_markdown


def _quartiles(call: Callable[[], object], repeats: int = 15) -> tuple[float, float, float]:
    call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begun))
    low, median, high = statistics.quantiles(times, n=4)
    return low, median, high


def _terminal(diagnosis: Diagnosis) -> str:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=100).print(render(diagnosis))
    return stream.getvalue()


def _matplotlib(diagnosis: Diagnosis) -> str:
    from matplotlib.figure import Figure

    texts = []
    for picture in diagnosis.pictures:
        figure = Figure(figsize=(4.6, 3.0))
        draw(picture, figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
        texts.append(stream.getvalue())
    return "".join(texts)


def main() -> None:
    """Print the table."""
    if len(sys.argv) > 1:
        diagnosis = Diagnosis.load(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            diagnosis = tameopt.audit("quadratic", out=f"{folder}/run")
    rows: dict[str, Callable[[], str]] = {
        "terminal": lambda: _terminal(diagnosis),
        "HTML": lambda: to_html(diagnosis),
        "Markdown": lambda: to_markdown(diagnosis),
        "JSON": lambda: dumps(diagnosis.to_json()),
        "pictures, own SVG": lambda: "".join(map(draw_svg, diagnosis.pictures)),
        "pictures, matplotlib SVG": lambda: _matplotlib(diagnosis),
    }
    settings = diagnosis.settings
    print(f"{settings.problem}: {len(diagnosis.pictures)} pictures, {len(diagnosis.findings)} findings")
    print(f"tameopt {tameopt.__version__}, torch {torch.__version__}, Python {platform.python_version()}, one thread")
    print(f"{'':26}{'median ms':>10}{'quartiles':>18}{'kB':>8}")
    for name, call in rows.items():
        low, median, high = _quartiles(call)
        print(f"{name:26}{median:10.1f}{f'{low:.1f} to {high:.1f}':>18}{len(call().encode()) / 1000:8.0f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
