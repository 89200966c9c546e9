"""Text that comes from elsewhere (names of layers, files, problems), made harmless for a terminal or a page."""

from __future__ import annotations

import html
import re


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
_LETTERS = {
    "alpha": "α", "beta": "β", "delta": "δ", "lambda": "λ", "Lambda": "Λ", "mu": "μ", "phi": "φ", "Phi": "Φ",
    "sigma": "σ", "Sigma": "Σ", "tau": "τ", "theta": "θ",
}  # fmt: skip
_LETTER = re.compile(rf"(?<![A-Za-z])({'|'.join(_LETTERS)})(?![A-Za-z=])")
_GRAD = re.compile(r"(?<![A-Za-z])grad (?=[A-Za-z])")
_SUBSCRIPT = re.compile(
    r"(?<![A-Za-z0-9_])([A-Za-zα-ωΑ-Ω])_(?:\{([^{}]{1,12})\}|([A-Za-z0-9*]{1,5})(?![A-Za-z0-9_]))"
)
_POWER = re.compile(r"\^(?:\{([^{}]{1,12})\}|(-?[0-9]+(?:\.[0-9]+)?|-?[A-Za-z](?![A-Za-z])))")


def symbols(text: object) -> str:
    """A sentence with the signs and Greek letters that ASCII spells out.

    >>> symbols("norm(grad F(theta)) <= 1/L, alpha -> 0; SGD(beta=1)")
    '‖∇F(θ)‖ ≤ 1/L, α → 0; SGD(beta=1)'
    """
    words = literal(text)
    for ascii_sign, sign in _SIGNS:
        words = words.replace(ascii_sign, sign)
    words = _GRAD.sub("∇", _with_bars(words))
    return _LETTER.sub(lambda match: _LETTERS[match[1]], words)


def _with_bars(words: str) -> str:
    """norm(...) as ‖...‖, whatever is nested inside; an unbalanced one stays as it is.

    >>> _with_bars("norm(w(t+s) - S(w(t), s)) and norm(x")
    '‖w(t+s) - S(w(t), s)‖ and norm(x'
    """
    found = re.search(r"(?<![A-Za-z])norm\(", words)
    if found is None:
        return words
    depth = 1
    for place in range(found.end(), len(words)):
        depth += {"(": 1, ")": -1}.get(words[place], 0)
        if depth == 0:
            inside, rest = words[found.end() : place], words[place + 1 :]
            return f"{words[: found.start()]}‖{_with_bars(inside)}‖{_with_bars(rest)}"
    return words


def prose(text: object) -> str:
    """A sentence for HTML: escaped, with symbols, subscripts and powers.

    >>> prose("theta_{k+1} and lambda_max fall like k^-1.3 in model_file.py")
    'θ<sub>k+1</sub> and λ<sub>max</sub> fall like k<sup>−1.3</sup> in model_file.py'
    """
    words = html.escape(symbols(text), quote=True)
    words = _SUBSCRIPT.sub(lambda match: f"{match[1]}<sub>{match[2] or match[3]}</sub>", words)
    return _POWER.sub(lambda match: f"<sup>{(match[1] or match[2]).replace('-', '−')}</sup>", words)


def svg_text(text: object) -> str:
    """Text inside an SVG <text>: as `prose`, with shifts of the baseline that every renderer knows.

    >>> svg_text("F(theta_k)")
    'F(θ<tspan dy="4" font-size="75%">k</tspan><tspan dy="-4">\u200b</tspan>)'
    """
    shifted = (
        prose(text)
        .replace("<sub>", '<tspan dy="4" font-size="75%">')
        .replace("<sup>", '<tspan dy="-5" font-size="75%">')
    )
    shifted = shifted.replace("</sub>", '</tspan><tspan dy="-4">\u200b</tspan>')
    return shifted.replace("</sup>", '</tspan><tspan dy="5">\u200b</tspan>')


def escaped(text: object) -> str:
    """The text for HTML, between tags or inside double quotes.

    >>> escaped('<b class="x">')
    '&lt;b class=&quot;x&quot;&gt;'
    """
    return html.escape(literal(text), quote=True)
