"""Where in the person's code a call comes from: the line, the column, the module's path."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from types import FrameType

import torch
from torch import nn

from tameopt.structure.program import Place

_TORCH = os.path.dirname(torch.__file__)
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# lines of the ready problems are as good as a person's; those of the rest of tameopt say nothing
_PROBLEMS = os.path.join(_OURS, "problems")
_NOT_A_PERSONS = (_TORCH, _OURS, "<frozen", "<string")


def current_place(modules: Mapping[int, str], stop: str) -> Place:
    """The innermost line of the person's code that is running, and the module it runs in.

    modules: name by id of each module. stop: the function `traced` of this file is the outermost frame that counts.
    """
    line = module = ""
    column = 0
    for frame in _frames(sys._getframe(1)):
        code = frame.f_code
        if code.co_name == "traced" and code.co_filename == stop:
            break
        if not module and code.co_name == "forward":
            module = modules.get(id(frame.f_locals.get("self")), "")
        if not line and _is_persons(code.co_filename):
            line = f"{code.co_filename}:{frame.f_lineno}"
            column = _column(frame)
        if line and module:
            break
    return Place(line, module, column)


def _is_persons(file: str) -> bool:
    return not file.startswith(_NOT_A_PERSONS) or file.startswith(_PROBLEMS)


def persons_line(error: BaseException) -> str:
    """ "file.py:12" of the innermost of a person's lines that an error went through, or ""."""
    found = ""
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if _is_persons(file):
            found = f"{file}:{step.tb_lineno}"
        step = step.tb_next
    return found


def _column(frame: FrameType) -> int:
    """Where on its line the running call begins, from 1; 0 where Python does not know."""
    positions = itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None)
    column = next(positions, (None, None, None, None))[2]
    return 0 if column is None else column + 1


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def module_names(model: nn.Module) -> dict[int, str]:
    """Module path by id."""
    return {id(module): name or type(module).__name__ for name, module in model.named_modules()}
