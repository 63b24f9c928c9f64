"""The settings of domain randomisation. Loads neither torch nor an engine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, Literal, Optional, Tuple

from dexhand_gym.fields import Annotated, Range
from dexhand_gym.objects import Friction, Mass, Size

Deviation = Annotated[float, Range(0, 1000)]
Factor = Annotated[float, Range(0, 100, above=True)]
Factors = Optional[Tuple[Factor, Factor]]
Steps = Annotated[int, Range(0, 100)]
Share = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, above=True)]
Angle = Annotated[float, Range(0, 1.6)]
LEAST = 1e-9
"""Steps and limits of sensors are not finer, for numbers of 32 bits divide by them."""

OF_TRAINING = ("curriculum", "retry")
"""What says what a training meets when; a test has none of it."""
WIDENING = 0.02
"""What a curriculum adds to the width of ranges at a time, of 1."""


@dataclass
class RandomizeConfig:
    """Domain randomisation, off by default. Two numbers are a range, from which values are drawn uniformly; "factor" says
    that they multiply what the model has. What concerns sensors reaches the policy's observation only: rewards, endings
    and privileged observations are computed from the true state."""

    per: Literal["episode", "environment"] = "episode"
    """Ranges are drawn anew for every episode, or once for the life of an environment."""
    curriculum: Share = 0.0
    """Above 0: ranges and pushes begin at their nominal values and widen while this share of the attempts succeeds, to
    their full width in 50 steps at least (an iteration of training each)."""
    retry: Annotated[float, Range(0, 0.99)] = 0.0
    """With this probability an attempt that failed is followed by one with the same draw, the same object for example, so
    that training meets more often what is hard."""

    box_size: Optional[Tuple[Size, Size]] = None
    """Largest extent of the objects, m; None: env.object.size."""
    box_mass: Optional[Tuple[Mass, Mass]] = None
    """Mass of the objects, kg; None: env.object.mass."""
    box_friction: Optional[Tuple[Friction, Friction]] = None
    """Friction coefficient of the objects; None: env.object.friction."""
    box_inertia: Factors = None
    """Factor of the objects' moments of inertia."""
    box_center: Annotated[float, Range(0, 0.5)] = 0.0
    """The objects' centre of mass lies within +- this of its place along x, y and z, m."""
    push_rate: Annotated[float, Range(0, 1000)] = 1.0
    """Pushes on each object per second, on average, where push_impulse or push_twist is above 0."""
    push_impulse: Deviation = 0.0
    """Largest impulse of a push, in a random direction, within one control step, N s."""
    push_twist: Deviation = 0.0
    """Largest angular impulse of a push, about a random axis, N m s."""

    finger_stiffness: Factors = None
    """Factor of the stiffness of the fingers' drives, another for each joint."""
    finger_damping: Factors = None
    """Factor of the damping of the fingers' drives."""
    finger_effort: Factors = None
    """Factor of the largest torque of the fingers' drives."""
    base_stiffness: Factors = None
    """Factor of the stiffness of the base's drives."""
    base_damping: Factors = None
    """Factor of the damping of the base's drives."""
    base_effort: Factors = None
    """Factor of the largest force or torque of the base's drives."""
    joint_damping: Factors = None
    """Factor of the damping in the fingers' joints."""
    joint_friction: Optional[Tuple[Deviation, Deviation]] = None
    """Friction in the fingers' joints, added to what they have, N m."""
    joint_armature: Factors = None
    """Factor of the inertia of the fingers' motors."""
    joint_offset: Angle = 0.0
    """The zero of every finger joint is wrong by up to this, rad: the hand reports, and its drives reach, angles that
    are off by it."""
    coupling: Factors = None
    """Factor by which joints that follow another one do so, such as the last of a finger."""
    link_mass: Factors = None
    """Factor of masses and moments of inertia of the hand's bodies. (The hand is compensated for gravity.)"""
    fingertip_friction: Optional[Tuple[Friction, Friction]] = None
    """Friction coefficient of each fingertip's contacts, in the place of the object's."""
    ground_friction: Optional[Tuple[Friction, Friction]] = None
    """Friction coefficient of the ground's contacts, in the place of the object's."""
    gravity_scale: Factors = None
    """Factor of gravity."""
    gravity_tilt: Angle = 0.0
    """Gravity is inclined by up to this, rad, in a random direction."""

    action_delay: Tuple[Steps, Steps] = (0, 0)
    """Delay with which dof targets reach the drives, in control steps."""
    action_lowpass: Optional[Tuple[Part, Part]] = None
    """Share of the way to a new dof target that the drives' target goes in a control step; 1: all of it."""
    action_drop: Share = 0.0
    """Share of the commands that are lost: the drives keep their targets."""
    observation_delay: Tuple[Steps, Steps] = (0, 0)
    """Delay with which the policy sees what sensors measure, in control steps. Targets, actions and time are its own
    and not delayed."""
    joint_position_noise: Deviation = 0.0
    """Standard deviation of the noise on every dof's position, rad (m for the base's first three)."""
    joint_position_step: Annotated[float, Range(0, 1)] = 0.0
    """Positions of the fingers' joints are reported in whole steps of this, rad; 0: exactly."""
    joint_velocity_noise: Deviation = 0.0
    """Standard deviation of the noise on every dof's velocity, rad/s (m/s)."""
    body_position_noise: Deviation = 0.0
    """Standard deviation of the noise on the positions of the hand's bodies, such as the finger pads, and of the boxes,
    along x, y and z, m."""
    contact_force_noise: Deviation = 0.0
    """Standard deviation of the noise on the contact force of every body, along x, y and z, N."""
    contact_force_gain: Factors = None
    """Factor of the contact force that a fingertip reports."""
    contact_force_bias: Deviation = 0.0
    """A fingertip's contact force is wrong by up to this along x, y and z, N."""
    contact_force_step: Deviation = 0.0
    """A fingertip's contact force is reported in whole steps of this along x, y and z, N; 0: exactly."""
    contact_force_limit: Deviation = 0.0
    """A fingertip reports no larger force than this, N; 0: any."""
    dead_fingertip: Share = 0.0
    """Share of the fingertips that report no force at all."""

    @property
    def per_environment(self) -> bool:
        """Whether environments differ in properties that they keep from episode to episode."""
        return self.per == "environment" and any(self.is_on(name) for name in DRAWN)

    def is_on(self, name: str) -> bool:
        """Whether this field randomises anything."""
        value = getattr(self, name)
        return value[1] > 0 if name.endswith("_delay") else value not in (None, 0.0)

    def validate(self, widens: bool = False) -> None:
        """Raises ValueError, one line, for a range that ends before it begins. `widens`: so does something of the task's
        own with a curriculum."""
        for item in fields(self):
            bounds = getattr(self, item.name)
            if isinstance(bounds, tuple) and bounds[0] > bounds[1]:
                raise ValueError(f"task.randomize.{item.name} = {bounds}: allowed are two numbers, the lower one first")
        for name in ("joint_position_step", "contact_force_step", "contact_force_limit"):
            if 0 < getattr(self, name) < LEAST:
                raise ValueError(f"task.randomize.{name} = {getattr(self, name)}: allowed is 0, or {LEAST} or more")
        for name in OF_TRAINING:
            if getattr(self, name) and self.per == "environment":
                raise ValueError(
                    f"task.randomize.{name} = {getattr(self, name)}: allowed is 0 with per = 'environment'"
                )
        names = [item.name for item in fields(self) if item.name not in ("per", *OF_TRAINING, "push_rate")]
        if self.curriculum and not widens and not any(self.is_on(name) for name in names):
            raise ValueError(
                f"task.randomize.curriculum = {self.curriculum}: allowed is 0, for nothing is there that it would widen"
            )
        if self.push_rate != RandomizeConfig.push_rate and not (self.push_impulse or self.push_twist):
            raise ValueError(
                f"task.randomize.push_rate = {self.push_rate}: allowed with push_impulse or push_twist above 0, else it "
                "does nothing"
            )


EVERYTHING: Dict[str, Any] = {
    "box_size": (0.04, 0.06),
    "box_mass": (0.05, 0.3),
    "box_friction": (0.5, 1.5),
    "box_inertia": (0.8, 1.2),
    "box_center": 0.005,
    "push_impulse": 0.01,
    "push_twist": 0.0005,
    "finger_stiffness": (0.75, 1.5),
    "finger_damping": (0.75, 1.5),
    "finger_effort": (0.8, 1.2),
    "base_stiffness": (0.75, 1.5),
    "base_damping": (0.75, 1.5),
    "base_effort": (0.8, 1.2),
    "joint_damping": (0.3, 3.0),
    "joint_friction": (0.0, 0.01),
    "joint_armature": (0.8, 1.2),
    "joint_offset": 0.02,
    "coupling": (0.9, 1.1),
    "link_mass": (0.5, 1.5),
    "fingertip_friction": (0.5, 1.5),
    "ground_friction": (0.5, 1.5),
    "gravity_scale": (0.95, 1.05),
    "gravity_tilt": 0.04,
    "action_delay": (0, 3),
    "action_lowpass": (0.3, 1.0),
    "action_drop": 0.02,
    "observation_delay": (0, 1),
    "joint_position_noise": 0.01,
    "joint_position_step": 0.000175,
    "joint_velocity_noise": 0.1,
    "body_position_noise": 0.002,
    "contact_force_noise": 0.05,
    "contact_force_gain": (0.8, 1.2),
    "contact_force_bias": 0.05,
    "contact_force_step": 0.01,
    "contact_force_limit": 20.0,
    "dead_fingertip": 0.02,
}
"""All of it at once, as far as docs/randomisation.md calls sensible."""

AT_EVERY_STEP = ("push_impulse", "push_twist", "action_drop", "joint_position_step", "contact_force_step")
AT_EVERY_STEP += ("contact_force_limit", "joint_position_noise", "joint_velocity_noise", "body_position_noise")
AT_EVERY_STEP += ("contact_force_noise",)
"""What is drawn at every step, or not drawn at all."""
DRAWN = tuple(
    item.name for item in fields(RandomizeConfig) if item.name not in ("per", *OF_TRAINING, "push_rate", *AT_EVERY_STEP)
)
"""What is drawn for an episode or an environment."""
PHYSICAL = tuple(name for name in DRAWN[: DRAWN.index("action_delay")] if name not in ("joint_offset", "coupling"))
"""Of these, what the engine must know."""
