"""The number of threads is chosen by time and given back."""

from __future__ import annotations

import time

import pytest
import torch

import tameopt as tame
from tameopt.threads import threads_for, useful_threads


@pytest.fixture
def _two_threads() -> object:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("_two_threads")
def test_threads_are_used_where_they_help_and_not_where_they_do_not() -> None:
    assert useful_threads(lambda: time.sleep(0.02 / torch.get_num_threads())) == 2
    assert useful_threads(lambda: time.sleep(0.01 * torch.get_num_threads())) == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two_threads")
def test_the_number_is_given_back_whatever_happens() -> None:
    problem = tame.problems.load("digits-linear", n=50)
    with pytest.raises(KeyboardInterrupt), threads_for(problem, 8):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 2
    with threads_for(tame.problems.load("saddle")) as threads:
        assert threads == 2
