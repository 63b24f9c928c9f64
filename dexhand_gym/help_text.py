"""What --help prints."""

from __future__ import annotations

from typing import Any, Dict, List

from dexhand_gym import tasks
from dexhand_gym.settings import SHORT_NAMES, STARTING_POINTS

HELP = """Trains or tests a policy for the DexHand.

  {command} --task BoxGrasping                train
  {command} --test --checkpoint latest        test what the newest training has learned
  {command} --config test_render              watch it
  {command} task=BoxGrasping numEnvs=2048     key=value and camelCase do, too

Short names
{short_names}

Starting points, which single options override
{starting_points}

Presets for --config
{presets}

All other settings have full names: --sim.dt 0.005 --task.reward-weights.alive 0.2 --train.units 64 64
  --help-all          lists them, with their defaults for --task
"""


def help_text(command: str, defaults: Dict[str, List[str]], presets: Dict[str, Dict[str, Any]]) -> str:
    """`defaults`: full name of a setting -> its words."""
    short_names = {
        f"--{short.replace('_', '-')}": f"{text.format(tasks=', '.join(tasks()))} [{' '.join(defaults[name])}]"
        for short, (name, text) in SHORT_NAMES.items()
    }
    points = {f"--{name.replace('_', '-')}": text for name, text in STARTING_POINTS.items()}
    texts = {
        preset: ", ".join(f"{name} {value}" for name, value in fields.items()) for preset, fields in presets.items()
    }
    return HELP.format(
        command=command, short_names=column(short_names), starting_points=column(points), presets=column(texts)
    )


def column(texts: Dict[str, str]) -> str:
    """Two columns: the names and their texts."""
    return "\n".join(f"  {name:<20}{text}" for name, text in texts.items())
