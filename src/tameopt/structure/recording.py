"""The program of a subject: all its batches, and a second run at other parameters that must not differ."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import torch

from tameopt.structure.arguments import severed
from tameopt.structure.branches import joined
from tameopt.structure.decisions import Decisions, TooManyDecisionsError
from tameopt.structure.places import persons_line
from tameopt.structure.program import Constant, Node, Obstruction, Place, Program, Ref, shifted
from tameopt.structure.subject import Subject, new_leaf
from tameopt.structure.trace import traced


def recorded(subject: Subject, seed: int) -> tuple[Program, tuple[str, ...]]:
    """The program of all parts, and what should be said about it."""
    notes = list(subject.notes)
    decisions = Decisions()
    program = _run_all(subject, subject.leaves, decisions)
    on_meta = any(leaf.is_meta for leaf in subject.leaves.values())
    if not subject.any_data:
        # every batch was traced, so what Python read from the data is what it will read again
        kept = tuple(item for item in program.obstructions if item.kind != "data branch")
        program = replace(program, obstructions=kept)
    if program.random:
        notes.append(f"random numbers are drawn ({', '.join(program.random)}): this holds given the noise")
    if on_meta:
        notes.append(
            "traced on the meta device: nothing was computed; buffers count as arbitrary numbers, running variances "
            "as >= 0"
        )
    elif decisions.made and not decisions.spoiled and all(item.kind == "branch" for item in program.obstructions):
        moved = _moved(subject, seed)
        program = joined(
            lambda made: _run_all(subject, subject.leaves, made),
            lambda made: _with_conditions(subject, moved, made),
            _skeleton, subject.any_data,
        ) or program  # fmt: skip
    elif not program.obstructions:
        second = _run_all(subject, _moved(subject, seed))
        if any(item.kind != "data branch" for item in second.obstructions) or _skeleton(second) != _skeleton(program):
            message = (
                "a second run at other parameters went through other operators or constants: theta reaches the "
                "result on a way that torch does not show (NumPy, Python numbers, state kept between calls)"
            )
            where = Obstruction("differs between runs", subject.name, message, Place())
            program = replace(program, obstructions=(where, *second.obstructions))
    return program, tuple(notes)


def _moved(subject: Subject, seed: int) -> dict[str, torch.Tensor]:
    """Other parameters."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: new_leaf(leaf.detach() + 0.1 * (1 + leaf.detach().abs()) * _noise(leaf, generator))
        for name, leaf in subject.leaves.items()
    }


def _with_conditions(subject: Subject, leaves: Mapping[str, torch.Tensor], decisions: Decisions) -> list[str]:
    """What a run that decides as told goes through, its conditions too; nothing when it does not run."""
    try:
        program = _run_all(subject, leaves, decisions)
    except (ValueError, TooManyDecisionsError):
        return []
    return _skeleton(replace(program, outputs=(*program.outputs, *decisions.conditions)))


def _noise(leaf: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.device, leaf.dtype)


def _skeleton(program: Program) -> list[str]:
    return [
        repr((node.op, sorted(node.arguments.items()), node.shapes, node.dtypes))
        for node in (program.nodes[index] for index in program.live())
    ]


def _run_all(subject: Subject, leaves: Mapping[str, torch.Tensor], decisions: Decisions | None = None) -> Program:
    """Trace every part and join the results with one last node."""
    decisions = decisions or Decisions()
    nodes: list[Node] = []
    outputs: list[Ref | Constant] = []
    obstructions: list[Obstruction] = []
    cuts = [f"a hook may change the gradient of {name}" for name in subject.hooks]
    random: set[str] = set()
    for part in range(subject.parts):
        run = functools.partial(subject.run, leaves, part)
        decided = len(decisions.made)
        try:
            program, tensors = traced(leaves, list(subject.data[part]), subject.modules, run, decisions=decisions)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            first = str(error).splitlines()[0] if str(error) else ""
            shapes = [tuple(tensor.shape) for tensor in subject.data[part]]
            line = persons_line(error)
            raise ValueError(
                f"the model must run on its inputs, but with shapes {shapes} it raised {type(error).__name__}"
                f"{f' at {line}' if line else ''}: {first}"
            ) from error
        random.update(program.random)
        shift = len(nodes)
        decisions.conditions[decided:] = [Ref(c.node + shift, c.output) for c in decisions.conditions[decided:]]
        nodes.extend(shifted(node, shift) for node in program.nodes)
        outputs.extend(Ref(out.node + shift, out.output) if isinstance(out, Ref) else out for out in program.outputs)
        obstructions.extend(item for item in program.obstructions if item not in obstructions)
        cuts.extend(f"{message} ({place})" for message, place in program.hooks)
        for tensor, out in zip(tensors, program.outputs, strict=True):
            if isinstance(out, Ref) and (reason := severed(tensor)):
                cuts.append(reason)
            if not tensor.is_meta and not bool(torch.isfinite(tensor.detach()).all()):
                obstructions.append(
                    Obstruction("not finite", "output", "the value at these parameters is not finite", Place())
                )
    if not outputs:
        return Program(tuple(nodes), (), tuple(obstructions))
    last = Node(
        subject.combine,
        {"tensors": tuple(outputs)},
        {},
        ((),),
        ("torch.float",),
        cut={"tensors": cuts[0]} if cuts else {},
    )
    nodes.append(last)
    return Program(tuple(nodes), (Ref(len(nodes) - 1),), tuple(obstructions), tuple(sorted(random)))
