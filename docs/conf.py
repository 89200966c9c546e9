"""The documentation: sphinx with furo and myst, built offline; reference pages are generated from the code."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import _reference  # noqa: E402  the folder of this file is importable only now

from tameopt import __version__  # noqa: E402

project = "tameopt"
author = "The tameopt authors"
copyright = "The tameopt authors"
release = version = __version__

extensions = ["myst_parser", "sphinx_gallery.gen_gallery", "_mathml"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "**.ipynb_checkpoints", "gallery/README.rst"]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "fieldlist"]
myst_heading_anchors = 3
# a page that a room has not written yet is no error of the others; a link that leads nowhere is one
suppress_warnings = ["myst.strikethrough"]

html_theme = "furo"
html_title = f"tameopt {release}"
html_static_path: list[str] = []
# mathematics becomes MathML while building: a reader's browser fetches nothing from elsewhere
html_math_renderer = "mathml"
html_show_sphinx = False

sphinx_gallery_conf = {
    "examples_dirs": ["gallery"],
    "gallery_dirs": ["_gallery"],
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "plot_gallery": "True",
    "min_reported_time": 600,
    "remove_config_comments": True,
}

_reference.write(HERE / "_reference_pages")
