"""docs/works-with.md says which of Gymnasium's vector wrappers work; here each is tried."""

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import vector

import dexhand_gym  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PAGE = (
    (Path(__file__).parent.parent / "docs" / "works-with.md").read_text().partition("## Gymnasium's vector wrappers")[2]
)
TABLE = {
    name: (tensors, arrays) for name, tensors, arrays in re.findall(r"^\| `(\w+)` \| (yes|no) \| (\w*)", PAGE, re.M)
}
WHY = {
    "RescaleAction": "must be an array",
    "NormalizeReward": "bool tensor",
    "DictInfoToList": "^$",  # an assertion without a word
    "RecordEpisodeStatistics": "NumPy arrays",
}
"""What is said where it is not what all wrappers of observations say."""
ELSEWHERE = {"HumanRendering", "JaxToNumpy", "JaxToTorch", "NumpyToTorch"}  # want OpenCV, JAX, an environment of NumPy
BASES = {"VectorizeTransformObservation", "VectorizeTransformAction", "VectorizeTransformReward"}


def arguments(name: str, folder: Path) -> dict:
    return {
        "ClipReward": {"max_reward": 1.0},
        "TransformReward": {"func": lambda reward: reward * 2},
        "TransformAction": {"func": lambda action: action},
        "TransformObservation": {"func": lambda obs: obs * 1},
        "RescaleAction": {"min_action": -1.0, "max_action": 1.0},
        "RescaleObservation": {"min_obs": -1.0, "max_obs": 1.0},
        "FilterObservation": {"filter_keys": ["hand_pose"]},
        "ReshapeObservation": {"shape": (-1, 1)},
        "ResizeObservation": {"shape": (2, 2)},
        "DtypeObservation": {"dtype": np.float64},
        "RecordVideo": {"video_folder": str(folder)},
        "RecordEpisodeStatistics": {"stats_key": "mine"},
        "ArrayConversion": {"env_xp": torch, "target_xp": np},
    }.get(name, {})


def episodes(name: str, arrays: bool, folder: Path) -> None:
    """Two steps more than an episode of 4."""
    mode = "rgb_array" if name == "RecordVideo" else None
    env = gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=2, seed=0, episode_length=4, render_mode=mode)
    if arrays:
        env = vector.ArrayConversion(env, env_xp=torch, target_xp=np)
    env = getattr(vector, name)(env, **arguments(name, folder))
    try:
        env.reset(seed=0)
        for _ in range(6):
            env.step(np.zeros((2, 18), np.float32) if arrays or name == "ArrayConversion" else torch.zeros(2, 18))
    finally:
        env.close()


def test_the_table_has_them_all():
    assert set(TABLE) | ELSEWHERE | BASES == set(vector.__all__)


def cases():
    for name, marks in ((name, [pytest.mark.draws] if name == "RecordVideo" else []) for name in TABLE):
        yield from (pytest.param(name, arrays, marks=marks) for arrays in (False, True) if TABLE[name][arrays])


@pytest.mark.parametrize(("name", "arrays"), list(cases()))
def test_a_wrapper(name, arrays, tmp_path):
    if TABLE[name][arrays] == "yes":
        episodes(name, arrays, tmp_path)
        return
    why = WHY.get(name, "SAME_STEP")
    with pytest.raises((TypeError, ValueError, RuntimeError, AssertionError), match=why):
        episodes(name, arrays, tmp_path)


def test_the_example_of_the_page():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
