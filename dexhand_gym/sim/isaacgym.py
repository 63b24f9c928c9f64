"""Isaac Gym Preview 4: PhysX on a GPU (GPU pipeline) or on CPU threads (CPU pipeline).

A written state reaches the engine with the next step, and until then the engine's own body tensor is stale. So body
states are computed from the joints here (kinematics.py), after a step and after a write alike. Contact forces are those
of the last physics step. docs/isaac-gym.md lists the other differences from the MuJoCo engines.
"""


# The type checker knows gymapi from the package isaacgym-stubs, which has no gymtorch.
# pyright: reportMissingModuleSource=false

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, TypeVar

import numpy as np

# isort: off
from isaacgym import gymapi, gymtorch  # pyright: ignore[reportAttributeAccessIssue]  # before torch
import torch

# isort: on
from torch import Tensor

from dexhand_gym.fields import check_name
from dexhand_gym.hands.hand import Hand
from dexhand_gym.hands.mjcf import numbers, write_plain_mjcf
from dexhand_gym.hands.pair import Hands
from dexhand_gym.objects import Object
from dexhand_gym.sim.base import MOST, REPORTED, PhysxConfig, Scene, SimConfig, Variation, View, check_properties
from dexhand_gym.sim.isaacgym_objects import in_each, make_asset, things_of
from dexhand_gym.sim.kinematics import Kinematics

_EYE, _TARGET, _FIELD = (-0.5, -0.86, 0.52), (-0.05, 0.0, 0.12), 50.0  # m, m, degrees across: the camera of scene.xml
OF_DRIVES = ("hand.stiffness", "hand.damping", "hand.effort", "hand.joint_damping", "hand.armature")
"""What may vary of the hand."""
T = TypeVar("T")


class IsaacGymSimulator:
    """The Simulator contract (base.py) on gymapi's tensors. `gym`, `sim` and `envs` are gymapi's own handles."""

    keeps_objects = True
    _started = False

    def __init__(
        self,
        scene: Scene,
        num_envs: int,
        cfg: SimConfig,
        decimation: int,
        device: str,
        variation: Optional[Variation],
        view: View,
    ):
        self.device = torch.device(device)
        self.num_envs, self.num_substeps, self.scene, self.view = num_envs, decimation, scene, view
        self._asked = False
        if scene.edit_spec is not None:
            raise ValueError("the task changes MuJoCo's model (edit_spec), which Isaac Gym has not: allowed is MuJoCo")
        check_variation(scene, variation or {}, num_envs)
        objects_of = in_each(scene, num_envs, variation or {})
        hands_of = {name: np.asarray(rows) for name, rows in (variation or {}).items() if name in OF_DRIVES}
        if self.device.type == "cuda" and IsaacGymSimulator._started:
            raise RuntimeError("Isaac Gym takes one simulator per process: a second one crashes it on GPUs")
        if scene.self_collision:
            raise ValueError("env.self_collision = True: with Isaac Gym allowed is False")
        if isinstance(scene.hand, Hands):
            raise ValueError(f"hands {', '.join(name for name, _ in scene.hand.placed)}: with Isaac Gym allowed is one")
        IsaacGymSimulator._started = True
        self.gym = gymapi.acquire_gym()
        gpu = self.device.index or 0
        graphics = gpu if cfg.physx.graphics_device < 0 else cfg.physx.graphics_device
        if not (view.cameras or view.window):
            graphics = -1
        self.sim = self.gym.create_sim(gpu, graphics, gymapi.SIM_PHYSX, self._params(cfg))
        if self.sim is None:
            raise RuntimeError(f"env.device = '{device}': Isaac Gym cannot start there; what it printed says why")
        self._build(scene, cfg.physx, objects_of, hands_of)
        succeeded(self.gym.prepare_sim(self.sim), "prepare_sim")

        self.actor_names, hand = scene.actor_names, scene.hand
        self.dof_names, self.body_names = list(hand.dof_names), [*hand.body_names, *self.actor_names[1:]]
        self._actor_bodies = self._indices([0, *range(len(hand.body_names), len(self.body_names))])
        self._kinematics = Kinematics(scene.hand_links, self.device)
        self._wrap(scene.hand_height)

    def _params(self, cfg: SimConfig) -> gymapi.SimParams:
        params, physx = gymapi.SimParams(), cfg.physx
        params.dt, params.substeps = cfg.dt, physx.substeps
        params.up_axis, params.gravity = gymapi.UP_AXIS_Z, gymapi.Vec3(*cfg.gravity)
        params.use_gpu_pipeline = params.physx.use_gpu = self.device.type == "cuda"
        params.physx.solver_type = physx.solver_type
        params.physx.num_position_iterations = physx.num_position_iterations
        params.physx.num_velocity_iterations = physx.num_velocity_iterations
        params.physx.contact_offset, params.physx.rest_offset = physx.contact_offset, physx.rest_offset
        params.physx.bounce_threshold_velocity = physx.bounce_threshold_velocity
        params.physx.max_depenetration_velocity = physx.max_depenetration_velocity
        params.physx.friction_offset_threshold = physx.friction_offset_threshold
        params.physx.friction_correlation_distance = physx.friction_correlation_distance
        params.physx.always_use_articulations = physx.always_use_articulations
        params.physx.num_threads = cfg.threads or len(os.sched_getaffinity(0))
        params.physx.max_gpu_contact_pairs = physx.contact_pairs * self.num_envs
        params.physx.default_buffer_size_multiplier = 5.0
        params.physx.contact_collection = gymapi.CC_LAST_SUBSTEP
        return params

    def vary(self, variation: Variation, mask: Optional[Tensor] = None) -> None:
        """See Simulator.vary. Raises ValueError: PhysX takes such values only when it is started."""
        if variation:
            raise ValueError(f"variation {', '.join(variation)}: with Isaac Gym allowed are values for whole runs only")

    def push(self, wrench: Tensor) -> None:
        """See Simulator.push. Always raises ValueError."""
        raise ValueError("pushes on objects: with Isaac Gym allowed are none")

    # Construction -----------------------------------------------------------------------------------------------------

    def _build(
        self, scene: Scene, physx: PhysxConfig, objects_of: Dict[str, np.ndarray], hands_of: Dict[str, np.ndarray]
    ) -> None:
        """Ground, and in every environment the hand and the objects; its collision group keeps them apart from other
        environments."""
        gym, sim = self.gym, self.sim
        ground = gymapi.PlaneParams()
        ground.normal = gymapi.Vec3(0.0, 0.0, 1.0)
        ground.static_friction = ground.dynamic_friction = 1.0
        ground.restitution = 0.0
        gym.add_ground(sim, ground)

        options = asset_options(physx, fix_base_link=True, disable_gravity=True)  # the hand is gravity-compensated
        with tempfile.TemporaryDirectory() as folder:
            write_plain_mjcf(scene.hand.links, Path(folder) / "hand.xml")
            hand_asset = succeeded(gym.load_asset(sim, folder, "hand.xml", options), "load_asset")
        self._dof_order = self._order(gym.get_asset_dof_names(hand_asset), scene.hand.dof_names, "dofs")
        self._body_order = self._order(gym.get_asset_rigid_body_names(hand_asset), scene.hand.body_names, "bodies")
        half, columns = scene.spacing / 2, math.ceil(math.sqrt(self.num_envs))
        self.envs, self._cameras = [], []
        hands, boxes = [], []  # indices of actors
        assets: Dict[Any, gymapi.Asset] = {}  # of objects
        for i in range(self.num_envs):
            lower, upper = gymapi.Vec3(-half, -half, 0.0), gymapi.Vec3(half, half, 2 * half)
            env = succeeded(gym.create_env(sim, lower, upper, columns), "create_env")
            # Filter: shapes that share a bit do not collide. The hand's shapes share one with each other, but none with
            # a box.
            at = pose(scene.hand_height, scene.hand_quat)
            actor = succeeded(gym.create_actor(env, hand_asset, at, "hand", i, 1), "create_actor")
            factors = {name: rows[i] for name, rows in hands_of.items()}
            drives = self._dof_properties(scene.hand, gym.get_asset_dof_properties(hand_asset), factors)
            succeeded(gym.set_actor_dof_properties(env, actor, drives), "set_actor_dof_properties")
            self._set_friction(env, actor, 1.0)
            hands.append(gym.get_actor_index(env, actor, gymapi.DOMAIN_SIM))
            for thing in things_of(scene, objects_of, i):
                boxes.append(self._add_object(env, i, thing, self._asset_of(thing, physx, assets)))
            self.envs.append(env)
            if i < self.view.cameras:
                self._cameras.append(self._add_camera(env))
        own = {**{f"box_{name}": rows for name, rows in objects_of.items()}, **hands_of}
        self._own = {name.replace(".", "_"): torch.tensor(rows, device=self.device) for name, rows in own.items()}
        self._built = {name: rows.clone() for name, rows in self._own.items()}
        self._hands, self._boxes = self._indices(hands).int(), self._indices(boxes).int().view(self.num_envs, -1)

    def _order(self, found: List[str], wanted: Any, what: str) -> Tensor:
        """Indices, in the importer's order, of the names in `wanted`."""
        if sorted(found) != sorted(wanted):
            raise RuntimeError(f"Isaac Gym imported other {what} than the hand has: {', '.join(found)}")
        return self._indices([found.index(name) for name in wanted])

    def _dof_properties(self, hand: Hand, properties: Any, factors: Dict[str, np.ndarray]) -> Any:
        """The hand's drives, times an environment's factors [D] by name. PhysX has one damping, so the joint's is added
        to the drive's."""
        one = np.ones(len(hand.dof_names))
        stiffness, damping, effort, of_joint, armature = (factors.get(name, one) for name in OF_DRIVES)
        for dof, (i, name) in enumerate(zip(self._dof_order.tolist(), hand.dof_names)):
            drive, joint = hand.drives[name], hand.joints[name]
            properties["driveMode"][i] = gymapi.DOF_MODE_POS
            properties["stiffness"][i] = drive["stiffness"] * stiffness[dof]
            properties["damping"][i] = drive["damping"] * damping[dof] + float(joint.get("damping", 0)) * of_joint[dof]
            properties["effort"][i] = drive["effort"] * effort[dof]
            properties["armature"][i] = float(joint.get("armature", 0)) * armature[dof]
            properties["lower"][i], properties["upper"][i] = numbers(joint["range"])
        properties["hasLimits"], properties["friction"], properties["velocity"] = True, 0.0, 1000.0
        return properties

    def _set_friction(self, env: gymapi.Env, actor: int, friction: float) -> None:
        shapes = self.gym.get_actor_rigid_shape_properties(env, actor)
        for shape in shapes:
            shape.friction, shape.restitution = friction, 0.0
        done = self.gym.set_actor_rigid_shape_properties(env, actor, shapes)
        succeeded(done, "set_actor_rigid_shape_properties")

    def _asset_of(self, thing: Object, physx: PhysxConfig, assets: Dict[Any, gymapi.Asset]) -> gymapi.Asset:
        """The asset of its shape and mass, from `assets` if it is there."""
        key = thing.shape, thing.size, thing.file, thing.parts, thing.mass
        if key not in assets:
            found = make_asset(self.gym, self.sim, thing, asset_options(physx))
            assets[key] = succeeded(found, "create_box" if thing.shape == "box" else "load_asset")
        return assets[key]

    def _add_object(self, env: gymapi.Env, group: int, thing: Object, asset: gymapi.Asset) -> int:
        at = pose(*thing.rest())
        actor = succeeded(self.gym.create_actor(env, asset, at, thing.name, group, 0), "create_actor")
        # A contact takes the mean of two frictions here, and should have the object's; hand and ground have 1.
        self._set_friction(env, actor, 2 * thing.friction - 1)
        self.gym.set_rigid_body_color(env, actor, 0, gymapi.MESH_VISUAL_AND_COLLISION, gymapi.Vec3(*thing.color))
        return self.gym.get_actor_index(env, actor, gymapi.DOMAIN_SIM)

    def _add_camera(self, env: gymapi.Env) -> int:
        properties = gymapi.CameraProperties()
        properties.width, properties.height = self.view.size
        properties.horizontal_fov, properties.near_plane = _FIELD, 0.02
        camera = succeeded(self.gym.create_camera_sensor(env, properties), "create_camera_sensor")
        self.gym.set_camera_location(camera, env, gymapi.Vec3(*_EYE), gymapi.Vec3(*_TARGET))
        return camera

    def _wrap(self, hand_height: float) -> None:
        """Wraps the engine's tensors and allocates those that we report."""
        gym, sim, n = self.gym, self.sim, self.num_envs

        def wrap(kind: str, *shape: int) -> Tensor:
            acquire = f"acquire_{kind}_tensor"
            return gymtorch.wrap_tensor(succeeded(getattr(gym, acquire)(sim), acquire)).view(n, *shape)

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(n, *shape, dtype=dtype, device=self.device)

        actors, dofs, bodies = len(self.actor_names), len(self.dof_names), len(self.body_names)
        self._roots, self._dofs = wrap("actor_root_state", actors, 13), wrap("dof_state", dofs, 2)
        self._forces = wrap("net_contact_force", bodies, 3)
        self._targets = zeros(dofs)
        self.root_state, self.dof_state = zeros(actors, 13), zeros(dofs, 2)
        self.rigid_body_state, self.net_contact_force = zeros(bodies, 13), zeros(bodies, 3)
        self.nonfinite, self._written = zeros(dtype=torch.bool), zeros(dtype=torch.bool)
        self._our_dofs = self._dof_order.argsort()  # in the engine's order
        self._body_order = torch.cat((self._body_order, self._indices(range(len(self.scene.hand.body_names), bodies))))
        self._refresh()
        # Whether positions are relative to the environment is undocumented; the hand's root reveals it.
        self._origins = self._roots[:, :1, :3] - torch.tensor(
            [0.0, 0.0, hand_height], dtype=torch.float32, device=self.device
        )
        self._report()
        self.net_contact_force.zero_()

    def _indices(self, values: Any) -> Tensor:
        return torch.tensor(list(values), dtype=torch.int64, device=self.device)

    # The contract -----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, dof_targets: Tensor) -> None:
        """See Simulator.step."""
        gym, sim = self.gym, self.sim
        if self._asked:
            self._check_own()
        torch.index_select(dof_targets, 1, self._our_dofs, out=self._targets)
        done = gym.set_dof_position_target_tensor(sim, gymtorch.unwrap_tensor(self._targets))
        succeeded(done, "set_dof_position_target_tensor")
        self._hand_over()
        for _ in range(self.num_substeps):
            gym.simulate(sim)
        if self.device.type == "cpu":
            gym.fetch_results(sim, True)
        self._refresh()
        self._report()

    @torch.inference_mode()
    def write_state(self, mask: Tensor) -> None:
        """See Simulator.write_state."""
        self._written |= mask
        self.net_contact_force.masked_fill_(mask.view(-1, 1, 1), 0.0)
        self._place_bodies(mask)

    def _hand_over(self) -> None:
        """Passes on what was written since the last step, in the one call per tensor that the engine allows. States
        that are not finite are held back: they stay marked as written, and nonfinite."""
        rows = (self._written & ~self.nonfinite).nonzero().flatten()  # waits for the GPU
        self._written &= self.nonfinite
        if len(rows) == 0:
            return
        torch.index_select(self.dof_state, 1, self._our_dofs, out=self._dofs)
        self._roots.copy_(self.root_state)
        self._roots[..., :3] += self._origins
        # The names keep these tensors alive: the engine keeps addresses, not tensors.
        hands, boxes = self._hands[rows], self._boxes[rows].flatten()
        dofs, roots = self._dofs.view(-1, 2), self._roots.view(-1, 13)
        states, actors = gymtorch.unwrap_tensor(dofs), gymtorch.unwrap_tensor(hands)
        done = self.gym.set_dof_state_tensor_indexed(self.sim, states, actors, len(hands))
        succeeded(done, "set_dof_state_tensor_indexed")
        if len(boxes):
            states, actors = gymtorch.unwrap_tensor(roots), gymtorch.unwrap_tensor(boxes)
            done = self.gym.set_actor_root_state_tensor_indexed(self.sim, states, actors, len(boxes))
            succeeded(done, "set_actor_root_state_tensor_indexed")

    def _refresh(self) -> None:
        succeeded(self.gym.refresh_dof_state_tensor(self.sim), "refresh_dof_state_tensor")
        succeeded(self.gym.refresh_actor_root_state_tensor(self.sim), "refresh_actor_root_state_tensor")
        succeeded(self.gym.refresh_net_contact_force_tensor(self.sim), "refresh_net_contact_force_tensor")

    def _report(self) -> None:
        """Copies the engine's tensors into ours."""
        torch.index_select(self._dofs, 1, self._dof_order, out=self.dof_state)
        torch.index_select(self._forces, 1, self._body_order, out=self.net_contact_force)
        self.root_state.copy_(self._roots)
        self.root_state[..., :3] -= self._origins
        self._place_bodies(~self._written)

    def _place_bodies(self, mask: Tensor) -> None:
        """Updates what follows from dofs and boxes, in the environments of `mask`."""
        bodies = torch.cat((self._kinematics(self.dof_state), self.root_state[:, 1:]), 1)
        self.rigid_body_state.copy_(torch.where(mask.view(-1, 1, 1), bodies, self.rigid_body_state))
        torch.index_select(self.rigid_body_state, 1, self._actor_bodies, out=self.root_state)
        finite = (self.dof_state.sum((1, 2)) + self.root_state.sum((1, 2))).abs() < MOST
        self.nonfinite.copy_(torch.where(mask, ~finite, self.nonfinite))

    def memory(self) -> Dict[str, Tensor]:
        """See Simulator.memory. PhysX's memory of contacts cannot be read. So this call makes the next step begin as
        after a write to every environment: continuing and restoring then give the same result."""
        self._asked = True
        self._written.fill_(True)
        return {**{name: getattr(self, name) for name in REPORTED}, "written": self._written, **self._own}

    def _check_own(self) -> None:
        """Raises RuntimeError if a restored memory has other boxes or drives: they cannot be rebuilt."""
        self._asked = False
        for name, rows in self._own.items():
            if not torch.equal(rows, self._built[name]):
                raise RuntimeError(f"another {name}: Isaac Gym keeps those of the seed that it was started with")

    def take_overflow(self) -> Tensor:
        """See Simulator.take_overflow; PhysX only prints that buffers overflow."""
        return torch.zeros((), dtype=torch.int64, device=self.device)

    def pictures(self) -> List[Any]:
        """What the cameras see now, a picture [height, width, 3] uint8 each."""
        self.step_graphics()
        self.gym.render_all_camera_sensors(self.sim)
        width, height = self.view.size
        cameras = zip(self.envs, self._cameras)
        images = (self.gym.get_camera_image(self.sim, env, camera, gymapi.IMAGE_COLOR) for env, camera in cameras)
        return [np.asarray(image).reshape(height, width, 4)[..., :3].copy() for image in images]

    def step_graphics(self) -> None:
        """Updates cameras and windows to the newest state."""
        if self.device.type != "cpu":
            self.gym.fetch_results(self.sim, True)
        self.gym.step_graphics(self.sim)

    def close(self) -> None:
        """See Simulator.close."""
        self.gym.destroy_sim(self.sim)


def succeeded(result: T, call: str) -> T:
    """Returns the result of a gymapi call. Raises RuntimeError if it says that the call failed."""
    if result is None or result is False or (type(result) is int and result == gymapi.INVALID_HANDLE):
        raise RuntimeError(f"Isaac Gym's {call} failed; what it printed says why")
    return result


def check_variation(scene: Scene, variation: Variation, num_envs: int) -> None:
    """Raises ValueError, one line, for a variation that PhysX does not take."""
    for name in variation:
        known = [f"{thing.name}.{what}" for thing in scene.free for what in ("size", "mass", "friction", "which")]
        check_name("variation with Isaac Gym", name, [*known, *OF_DRIVES])
    check_properties(variation, scene, num_envs)


def asset_options(physx: PhysxConfig, **fields: Any) -> gymapi.AssetOptions:
    """The options that hand and boxes share, and `fields`."""
    options = gymapi.AssetOptions()
    options.linear_damping = options.angular_damping = 0.0
    options.collapse_fixed_joints = False
    options.thickness = physx.rest_offset
    for name, value in fields.items():
        setattr(options, name, value)
    return options


def pose(height: float, quat: Tuple[float, ...]) -> gymapi.Transform:
    """A pose above an environment's origin; quat x y z w."""
    transform = gymapi.Transform()
    transform.p, transform.r = gymapi.Vec3(0.0, 0.0, height), gymapi.Quat(*quat)
    return transform
