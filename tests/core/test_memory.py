"""Available memory from the kernel's own tables, written into a folder."""

import torch

from tameopt.memory import available_bytes

CPU = torch.device("cpu")


def table(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_container_s_limit_counts_where_it_is_lower(tmp_path):
    assert available_bytes(CPU, tmp_path) == 8 << 30  # a system that tells nothing
    table(tmp_path, "proc/meminfo", "MemTotal: 4096 kB\nMemAvailable:    2048 kB\n")
    assert available_bytes(CPU, tmp_path) == 2048 * 1024
    table(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    table(tmp_path, "sys/fs/cgroup/memory.current", "1000\n")
    assert available_bytes(CPU, tmp_path) == 2048 * 1024
    table(tmp_path, "sys/fs/cgroup/memory.max", "500000\n")
    table(tmp_path, "sys/fs/cgroup/memory.stat", "anon 5\ninactive_file 600\n")
    assert available_bytes(CPU, tmp_path) == 500000 - 1000 + 600
