"""Turns a policy into one for the mirror image of the environment that it was trained in.

An Image holds the source index and the sign of each column of a mirrored row: image = sign * row[index].
"""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Tuple

import torch
from torch import Tensor

from .adam import Adam
from .ppo import Agent


class Image(NamedTuple):
    index: Tensor
    sign: Tensor

    def of(self, x: Tensor, dim: int = 0, signed: bool = True) -> Tensor:
        """The image of x along one of its axes."""
        shape = [-1 if i == dim else 1 for i in range(x.dim())]
        return x.index_select(dim, self.index) * (self.sign.view(shape) if signed else 1.0)


@torch.no_grad()
def mirror(agent: Agent, optimizer: Adam | None, obs: Image, critic_obs: Image, actions: Image) -> None:
    """Changes agent and moments in place: in the image of a situation it now does the image of what it did in that
    situation. `obs` is the Image of the policy's row, `critic_obs` of the critic's, `actions` of its actions."""
    for x, image, dim, signed in tensors(agent, obs, critic_obs, actions):
        x.copy_(image.of(x, dim, signed))
        state = optimizer.state.get(x, {}) if optimizer else {}
        if state:
            state["exp_avg"].copy_(image.of(state["exp_avg"], dim, signed))
            state["exp_avg_sq"].copy_(image.of(state["exp_avg_sq"], dim, signed=False))


def tensors(agent: Agent, obs: Image, critic_obs: Image, actions: Image) -> Iterator[Tuple[Tensor, Image, int, bool]]:
    """The agent's tensors that have an axis over the columns of a row: tensor, image, axis, whether signs matter."""
    parts: list[Any] = [(agent.running_mean_std, agent.a2c_network, obs)]
    if agent.central_value is not None:
        parts.append((agent.central_value.running_mean_std, agent.central_value.a2c_network, critic_obs))
    for statistics, network, image in parts:
        if statistics is not None:
            yield statistics.running_mean, image, 0, True
            yield statistics.running_var, image, 0, False
        for name in ("actor_mlp", "critic_mlp"):
            layers = getattr(network, name, None)
            if layers is not None and len(layers):
                yield layers[0].weight, image, 1, True
    yield agent.a2c_network.mu.weight, actions, 0, True
    yield agent.a2c_network.mu.bias, actions, 0, True
    yield agent.a2c_network.sigma, actions, 0, False
