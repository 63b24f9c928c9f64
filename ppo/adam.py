"""Adam, one fused kernel for all parameters: that of `torch.optim.Adam(fused=True)`, whose state_dict it shares.

It is not that class itself, because making an instance imports PyTorch's compiler, which adds over a second to every
program's start. Formula: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1.
"""

from __future__ import annotations

from typing import Any, Iterable

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPS = 1e-8


class Adam:
    """`lr` [] is a tensor on the parameters' device: changing it in place changes the rate, in a CUDA graph too.
    `state` has `step` [], `exp_avg` and `exp_avg_sq` (as the parameter) of each parameter that has had a gradient."""

    def __init__(self, parameters: Iterable[Tensor], lr: Tensor, weight_decay: float = 0.0):
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(parameters), "lr": lr, "betas": BETAS, "eps": EPS, "weight_decay": weight_decay}
        ]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        group = self.param_groups[0]
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not moved:
            return
        states = [self.state.get(parameter) or self.begin(parameter) for parameter in moved]
        first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            moved,
            [parameter.grad for parameter in moved],
            first,
            second,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def begin(self, parameter: Tensor) -> dict[str, Tensor]:
        zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}
        return self.state[parameter]

    def state_dict(self) -> dict[str, Any]:
        """In the format of torch.optim.Adam, including the options that are fixed here."""
        fixed = {"amsgrad": False, "maximize": False, "foreach": None, "capturable": False, "differentiable": False}
        more = {**fixed, "fused": True, "decoupled_weight_decay": False}
        group = self.param_groups[0]
        state = {i: self.state[p] for i, p in enumerate(group["params"]) if p in self.state}
        return {"state": state, "param_groups": [{**group, **more, "params": list(range(len(group["params"])))}]}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Copies the moments and the rate of `saved`, of this class or of torch.optim.Adam; other options stay."""
        group = self.param_groups[0]
        self.state.clear()
        for i, moments in saved["state"].items():
            for name, x in self.begin(group["params"][i]).items():
                x.copy_(torch.as_tensor(moments[name]))
        group["lr"].fill_(float(saved["param_groups"][0]["lr"]))
