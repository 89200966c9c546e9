"""The energy identity refutes wrong derivatives, and nothing that is only rounding."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.chain_rule import chain_rule


def test_values_that_cancel_refute_nothing() -> None:
    """1 - cos near 0 is computed to 1e-16, far more than its own last place: no violation may be seen in that."""

    def value_and_gradient(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (1 - torch.cos(x)).sum(), torch.sin(x)

    a = torch.tensor([1e-4], dtype=torch.float64)
    for k in range(1, 40):
        assert chain_rule(value_and_gradient, [a, a * (1 + k * 1e-9)]).holds


def test_a_wrong_derivative_is_still_seen() -> None:
    def value_and_gradient(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (1 - torch.cos(x)).sum(), 1.01 * torch.sin(x)

    points = [torch.tensor([0.1], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)]
    assert not chain_rule(value_and_gradient, points).holds
