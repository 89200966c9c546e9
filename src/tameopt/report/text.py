"""Text that comes from elsewhere (names of layers, files, problems), made harmless for a terminal or a page."""

from __future__ import annotations

import html


def literal(text: object) -> str:
    """The text without control characters; line breaks and tabs stay.

    A name can then neither move the cursor nor colour the terminal nor reverse the reading direction.

    >>> literal("a" + chr(27) + "[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in str(text)
    )


_SIGNS = (("+-", "±"), ("<=>", "⇔"), ("->", "→"), (">=", "≥"), ("<=", "≤"))


def prose(text: object) -> str:
    """A sentence for HTML: escaped, with the signs that ASCII lacks.

    >>> prose("lr 0.05 -> 0.025, alpha <= 1/L")
    'lr 0.05 → 0.025, alpha ≤ 1/L'
    """
    words = literal(text)
    for ascii_sign, sign in _SIGNS:
        words = words.replace(ascii_sign, sign)
    return html.escape(words, quote=True)


def escaped(text: object) -> str:
    """The text for HTML, between tags or inside double quotes.

    >>> escaped('<b class="x">')
    '&lt;b class=&quot;x&quot;&gt;'
    """
    return html.escape(literal(text), quote=True)
