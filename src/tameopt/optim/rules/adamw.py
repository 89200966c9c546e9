"""AdamW: Adam whose weight decay shrinks theta instead of entering the averages."""

from __future__ import annotations

from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.rules.adam import Adam


class AdamW(Adam):
    """AdamW (Loshchilov and Hutter 2019) with torch.optim.AdamW's arguments, defaults and numbers.

    theta shrinks by 1 - alpha_k * weight_decay, then Adam's step. Arguments as in `Adam`; weight_decay is 1e-2.

    >>> import torch
    >>> theta = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = AdamW([theta], lr=0.1, weight_decay=1.0)
    >>> theta.grad = torch.tensor([3.0])
    >>> optimizer.step()
    >>> round(theta.item(), 6)
    0.8
    """

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            **extras,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # an old Adam checkpoint must not switch AdamW back to coupled decay
            group["decoupled_weight_decay"] = True


ENTRY = Entry(
    "AdamW",
    AdamW,
    "theta = (1 - alpha lambda) theta, then Adam",
    "Loshchilov and Hutter 2019",
    variants={"amsgrad": {"amsgrad": True, "maximize": True}},
)
