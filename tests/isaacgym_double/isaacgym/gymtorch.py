"""See the package's docstring."""

import torch

from isaacgym import gymapi


def wrap_tensor(gym_tensor: gymapi.Tensor) -> torch.Tensor:
    if not isinstance(gym_tensor, gymapi.Tensor):
        raise TypeError(f"wrap_tensor takes what acquire_*_tensor gave, not {type(gym_tensor).__name__}")
    return gym_tensor.get()


def unwrap_tensor(torch_tensor: torch.Tensor) -> gymapi.Tensor:
    if not isinstance(torch_tensor, torch.Tensor):
        raise TypeError(f"unwrap_tensor takes a torch tensor, not {type(torch_tensor).__name__}")
    if not torch_tensor.is_contiguous():
        raise ValueError("unwrap_tensor: Input tensor must be contiguous")
    return gymapi.Tensor(torch_tensor)
