"""The environments for skrl 2.1 (nothing else needs this module): examples/with_skrl.py is a complete example."""

from __future__ import annotations

from typing import Any, Optional

from gymnasium import Space
from skrl.envs.wrappers.torch.gymnasium_envs import GymnasiumWrapper
from torch import Tensor


class SkrlVecEnv(GymnasiumWrapper):
    """A vector environment of this package as skrl wants it. If the critic sees more than the policy, that is the state
    [N, S], which has the observation in it."""

    @property
    def state_space(self) -> Optional[Space]:
        return self._unwrapped.single_critic_space

    def state(self) -> Optional[Tensor]:
        return (self._info or {}).get("critic_obs")


class FinalObservations:
    """Before an agent of skrl, `class MyPPO(FinalObservations, PPO)`: what follows an episode's last step is its last
    observation. skrl takes the next episode's first one."""

    def record_transition(self, *, infos: Any, **transition: Any) -> None:
        transition.update(next_observations=infos["final_obs"], next_states=infos.get("final_critic_obs"))
        super().record_transition(infos=infos, **transition)  # pyright: ignore[reportAttributeAccessIssue]
