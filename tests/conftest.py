"""One thread: the tests' tensors are tiny, and the suite runs one process a core."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# the same examples at every run: a suite that is green stays green
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
