"""How good a policy is, and how sure that is."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Tuple

import torch
from rich import box
from rich.table import Table

from .ppo import Agent


@torch.no_grad()
def evaluate(env: Any, agent: Agent, episodes: int, tell: Callable[[int], None] = lambda done: None) -> Dict[str, Any]:
    """Plays `episodes` episodes and tells how many are done. How many each environment plays is fixed beforehand:
    taking those that end first would favour short ones."""
    obs, _ = env.reset()
    left = torch.full((env.num_envs,), episodes // env.num_envs, device=obs.device)
    left[: episodes % env.num_envs] += 1
    rows, endings, figures, done = [], {}, list(getattr(env, "figures", ())), 0
    while (left > 0).any():
        obs, *_, info = env.step(agent.to_env(agent.act_deterministic(obs)))
        counted = info["_episode"] & (left > 0)
        left -= counted.long()
        endings = info["endings"]
        of_episode = [info["episode"][name] for name in ("r", "l", *figures)]
        columns = (info["success"], *of_episode, *endings.values())
        rows.append(torch.stack([column.double() for column in columns], 1)[counted])
        done += len(rows[-1])
        tell(done)
    success, reward, length, *more = torch.cat(rows).T
    result: Dict[str, Any] = {"episodes": len(reward), "independent": len(reward)}
    if getattr(env, "differ", False):  # a second episode with the same box says less than one with another
        result["independent"] = min(env.num_envs, len(reward))
    if getattr(env, "success_criteria", True):
        result["success_rate"] = success.mean().item()
        result["success_rate_95"] = wilson(result["success_rate"], result["independent"])
    result["figures"] = figures
    for name, column in zip(("reward", "length", *figures), (reward, length, *more)):
        result[f"{name}_mean"], result[f"{name}_std"] = column.mean().item(), column.std(unbiased=False).item()
    result["endings"] = {name: column.mean().item() for name, column in zip(endings, more[len(figures) :])}
    return result


def wilson(share: float, n: int, z: float = 1.96) -> Tuple[float, float]:
    """Wilson's 95 % interval of a share seen in n episodes."""
    middle, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, (middle - spread) / (1 + z**2 / n)), min(1.0, (middle + spread) / (1 + z**2 / n))


def result_table(result: Dict[str, Any]) -> Table:
    """The result of evaluate() as a table."""
    table = Table("", "mean", "+- std or 95 % interval", box=box.ROUNDED)
    shares = {f"ended by {name}": share for name, share in result["endings"].items()}
    if "success_rate" in result:
        shares = {"success rate": result["success_rate"], **shares}
    for name, share in shares.items():
        low, high = wilson(share, result["independent"])
        table.add_row(name, f"{share:.1%}", f"{low:.1%} to {high:.1%}")
    for name in ("reward", "length", *result["figures"]):
        table.add_row(name, decimals(result[f"{name}_mean"]), f"+- {decimals(result[f'{name}_std'])}")
    return table


def decimals(x: float) -> str:
    """Two decimals, or three digits of what is too small for them, such as a distance in metres."""
    return f"{x:.2f}" if x == 0 or abs(x) >= 0.1 else f"{x:.3g}"
