"""How results show themselves in a notebook."""

from __future__ import annotations

import html


class HtmlText:
    """Shows the object's `repr` as preformatted text where HTML is rendered."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"
