"""How much memory a computation may still take."""

from __future__ import annotations

from pathlib import Path

import torch

_UNKNOWN = 8 << 30  # where the system does not say; our choice


def available_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that are free on a GPU; in main memory what the kernel calls available, within the container's limit.

    root: where /proc and /sys lie. 8 GiB where the system tells nothing.

    >>> available_bytes(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    bounds = []
    lines = _read(root / "proc/meminfo").splitlines()
    bounds += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    limit, used, statistics = (_read(root / f"sys/fs/cgroup/memory.{name}") for name in ("max", "current", "stat"))
    if limit.strip().isdigit() and used.strip().isdigit():
        # file pages that nobody has touched for a while count as used, but are given up when asked for
        cached = [int(line.split()[1]) for line in statistics.splitlines() if line.startswith("inactive_file ")]
        bounds.append(max(int(limit) - int(used) + sum(cached), 0))
    return min(bounds, default=_UNKNOWN)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
