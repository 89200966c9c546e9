"""LLVM text to machine code in this process, by the wheel llvmlite: no compiler needed."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from tameopt import extras

_compiling = threading.Lock()  # LLVM's global state is not thread-safe


def machine_code(source: str, *functions: str) -> tuple[tuple[int, ...], Any]:
    """Addresses of functions of an LLVM text, and what must live as long as they are called."""
    binding = extras.require("llvmlite.binding", "engine='cpu'")
    with _compiling:
        machine = _target_machine(binding)
        module = binding.parse_assembly(source)
        module.verify()
        engine = binding.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return tuple(map(engine.get_function_address, functions)), (engine, machine)


def assembly(source: str) -> str:
    """The assembly of an LLVM text for this processor."""
    binding = extras.require("llvmlite.binding", "engine='cpu'")
    with _compiling:
        machine = _target_machine(binding)
        module = binding.parse_assembly(source)
        module.triple = binding.get_process_triple()
        return str(machine.emit_assembly(module))


def _target_machine(binding: Any) -> Any:
    with contextlib.suppress(RuntimeError):  # newer llvmlite initialises itself and raises here
        binding.initialize()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )
