"""Replaying a certificate file, whichever theorem it is about (checker code)."""

from __future__ import annotations

import os

from tameopt.kl import check_flow, check_margin, check_trap
from tameopt.kl.check_arrays import read_file

_CHECKERS = {
    check_trap.FORMAT: check_trap.check,
    check_flow.FORMAT: check_flow.check,
    check_margin.FORMAT: check_margin.check,
}


def check_file(path: str | os.PathLike[str]) -> bool:
    """Whether the certificate in a file holds, from its weights and data alone.

    Raises FileNotFoundError, or ValueError when the file is no certificate of convergence to zero loss.
    """
    data = read_file(path)
    checker = _CHECKERS.get(str(data.get("format")))
    if checker is None:
        raise ValueError(f"{path} must hold one of {', '.join(_CHECKERS)}, it holds {data.get('format')!r}.")
    return checker(data)
