"""The rules of the code base that a machine can check: imports go one way, importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tameopt"

# Each layer may import itself where its members say so below, and every layer before it.
LAYERS = (
    {"claims"},
    {"evidence", "picture", "batches", "probe", "linear_operator", "extras", "catalogue", "student"},
    {"parameter_vector", "sharing"},
    {"loss_module", "hessian_modes", "record_file"},
    {"sample_gradients"},
    {"problem", "run"},
    {"analysis", "memory", "threads", "training_mode"},
    {"optim", "structure", "curvature", "problems"},
    {"dynamics", "kl", "noise", "nonsmooth"},
    {"theorems"},
    {"audit"},
    {"report"},
    {"integrations"},
    {"commands"},
    {"cli"},
)
# Within a layer these may import these; all else in a layer keeps apart.
WITHIN = {
    "evidence": {"claims"},
    "linear_operator": {"extras"},
    "probe": {"batches"},
    "noise": {"dynamics", "nonsmooth"},
    "nonsmooth": {"dynamics"},
    "kl": {"dynamics"},
    "curvature": {"structure"},
}
# Lazy conveniences on results, named in their docstrings: a Diagnosis renders itself.
LAZY = {("audit", "report"), ("__init__", "*")}


def layer_of(room: str) -> int:
    for level, rooms in enumerate(LAYERS):
        if room in rooms:
            return level
    raise AssertionError(f"{room} has no place in LAYERS: put it there, and in the design's list of rooms.")


def is_room(name: str) -> bool:
    return (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").is_file()


def imports_of(path: Path) -> set[str]:
    """The rooms of tameopt that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "tameopt":
                names = [f"tameopt.{alias.name}" for alias in node.names if is_room(alias.name)]
        rooms |= {name.split(".")[1] for name in names if name.startswith("tameopt.")}
    return rooms


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE)


def violations(room: str, imported: set[str]) -> set[str]:
    allowed = {room} | WITHIN.get(room, set()) | {to for frm, to in LAZY if frm == room}
    return {other for other in imported - allowed if layer_of(other) >= layer_of(room)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    assert not violations(room_of(path), imports_of(path))


def test_the_direction_test_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("from tameopt import report\nimport tameopt.audit.plan\n")
    assert violations("structure", imports_of(file)) == {"report", "audit"}


def test_importing_needs_torch_and_numpy_alone() -> None:
    script = (
        "import time, torch, numpy, sys; before = set(sys.modules); start = time.perf_counter();"
        "import tameopt; seconds = time.perf_counter() - start;"
        "from tameopt import Problem, Run; "
        "heavy = {'scipy','sklearn','matplotlib','sympy','flint','numba','torchdiffeq','typer','rich','triton',"
        "'safetensors'};"
        "loaded = {m.split('.')[0] for m in set(sys.modules) - before} & heavy; print(seconds, sorted(loaded))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    seconds, loaded = output.strip().split(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 1.0
