"""See the package's docstring."""

import enum
import functools
import math
import os
import weakref
import xml.etree.ElementTree as ElementTree

import mujoco
import numpy as np

UpAxis = enum.IntEnum("UpAxis", "UP_AXIS_Y UP_AXIS_Z", start=0)
SimType = enum.IntEnum("SimType", "SIM_PHYSX SIM_FLEX", start=0)
DofDriveMode = enum.IntEnum("DofDriveMode", "DOF_MODE_NONE DOF_MODE_POS DOF_MODE_VEL DOF_MODE_EFFORT", start=0)
ContactCollection = enum.IntEnum("ContactCollection", "CC_NEVER CC_LAST_SUBSTEP CC_ALL_SUBSTEPS", start=0)
IndexDomain = enum.IntEnum("IndexDomain", "DOMAIN_ACTOR DOMAIN_ENV DOMAIN_SIM", start=0)
ImageType = enum.IntEnum("ImageType", "IMAGE_COLOR IMAGE_DEPTH IMAGE_SEGMENTATION IMAGE_OPTICAL_FLOW", start=0)
MeshType = enum.IntEnum("MeshType", "MESH_NONE MESH_COLLISION MESH_VISUAL MESH_VISUAL_AND_COLLISION", start=0)
KeyboardInput = enum.IntEnum("KeyboardInput", "KEY_SPACE KEY_COMMA KEY_PERIOD KEY_ENTER KEY_RIGHT KEY_DOWN KEY_UP")
for _kind in (UpAxis, SimType, DofDriveMode, ContactCollection, IndexDomain, ImageType, MeshType, KeyboardInput):
    globals().update(_kind.__members__)

GLOBAL_ORIGINS = os.environ.get("ISAACGYM_DOUBLE_ORIGINS", "local") == "global"
"""Whether positions count from the origin of the world or of the environment: the documentation does not say, but
IsaacGymEnvs relies on the environment's."""
ORDER = os.environ.get("ISAACGYM_DOUBLE_ORDER", "file")
"""Of bodies and dofs: "file" or "alphabet". Neither does it say that."""
DISPLAY = os.environ.get("ISAACGYM_DOUBLE_DISPLAY", "") != "none"
MANY_SIMS = os.environ.get("ISAACGYM_DOUBLE_SIMS", "one") == "many"
INVALID_HANDLE = -1
FAILING = {}
"""Calls that fail, and what they return: {"prepare_sim": False}."""

DOF_PROPERTIES = np.dtype(
    [("hasLimits", "?"), ("lower", "<f4"), ("upper", "<f4"), ("driveMode", "<i4"), ("stiffness", "<f4")]
    + [(name, "<f4") for name in ("damping", "velocity", "effort", "friction", "armature")]
)


class GymError(RuntimeError):
    """Something that Isaac Gym forbids, or would silently do wrong."""


def forbid(condition, message):
    if condition:
        raise GymError(message)


class Struct:
    """Fields of fixed types and no others, as the original's, which are C++."""

    __slots__ = ()
    defaults = {}

    def __init__(self):
        for name, value in self.defaults.items():
            setattr(self, name, value() if isinstance(value, type) else value)

    def __setattr__(self, name, value):
        default = self.defaults.get(name)
        kind = default if isinstance(default, type) else type(default)
        fits = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
        if name in self.defaults and not fits:
            raise TypeError(f"{type(self).__name__}.{name} = {value!r}: must be {kind.__name__}")
        super().__setattr__(name, value)


def struct(name, **defaults):
    return type(name, (Struct,), {"__slots__": tuple(defaults), "defaults": defaults})


class Vec3(Struct):
    __slots__ = ("x", "y", "z")

    def __init__(self, x=0.0, y=0.0, z=0.0):
        self.x, self.y, self.z = float(x), float(y), float(z)

    def array(self):
        return np.array([self.x, self.y, self.z])


class Quat(Struct):
    __slots__ = ("w", "x", "y", "z")

    def __init__(self, x=0.0, y=0.0, z=0.0, w=1.0):
        self.x, self.y, self.z, self.w = float(x), float(y), float(z), float(w)


Transform = struct("Transform", p=Vec3, r=Quat)
Mat33 = struct("Mat33", x=Vec3, y=Vec3, z=Vec3)
PhysXParams = struct(
    "PhysXParams",
    always_use_articulations=False,
    bounce_threshold_velocity=0.2,
    contact_collection=ContactCollection.CC_ALL_SUBSTEPS,
    contact_offset=0.02,
    default_buffer_size_multiplier=2.0,
    friction_correlation_distance=0.025,
    friction_offset_threshold=0.04,
    max_depenetration_velocity=100.0,
    max_gpu_contact_pairs=1048576,
    num_position_iterations=4,
    num_subscenes=0,
    num_threads=0,
    num_velocity_iterations=1,
    rest_offset=0.001,
    solver_type=1,
    use_gpu=False,
)
SimParams = struct(
    "SimParams",
    dt=1 / 60,
    enable_actor_creation_warning=True,
    gravity=Vec3,
    num_client_threads=0,
    physx=PhysXParams,
    substeps=2,
    up_axis=UpAxis.UP_AXIS_Y,
    use_gpu_pipeline=False,
)
AssetOptions = struct(
    "AssetOptions",
    angular_damping=0.5,
    armature=0.0,
    collapse_fixed_joints=False,
    default_dof_drive_mode=DofDriveMode.DOF_MODE_NONE,
    density=1000.0,
    disable_gravity=False,
    enable_gyroscopic_forces=True,
    fix_base_link=False,
    flip_visual_attachments=False,
    linear_damping=0.0,
    max_angular_velocity=64.0,
    max_linear_velocity=1000.0,
    override_com=False,
    override_inertia=False,
    replace_cylinder_with_capsule=False,
    thickness=0.02,
    use_mesh_materials=False,
    use_physx_armature=True,
    vhacd_enabled=False,
)
PlaneParams = struct(
    "PlaneParams",
    distance=0.0,
    dynamic_friction=1.0,
    normal=Vec3,
    restitution=0.0,
    segmentation_id=0,
    static_friction=1.0,
)
RigidShapeProperties = struct(
    "RigidShapeProperties",
    compliance=0.0,
    contact_offset=0.02,
    filter=0,
    friction=1.0,
    rest_offset=0.001,
    restitution=0.0,
    rolling_friction=0.0,
    thickness=0.02,
    torsion_friction=0.0,
)
RigidBodyProperties = struct(
    "RigidBodyProperties", com=Vec3, flags=0, inertia=Mat33, invInertia=Mat33, invMass=0.0, mass=0.0
)
CameraProperties = struct(
    "CameraProperties",
    enable_tensors=False,
    far_plane=2e6,
    height=900,
    horizontal_fov=90.0,
    near_plane=0.01,
    supersampling_horizontal=1,
    supersampling_vertical=1,
    use_collision_geometry=False,
    width=1600,
)
ActionEvent = struct("ActionEvent", action="", value=0.0)


class Tensor:
    """A descriptor: it knows where a tensor's memory is, and does not keep it alive."""

    def __init__(self, tensor):
        self.shape, self.dtype, self.device = tuple(tensor.shape), tensor.dtype, tensor.device
        self.data_address, self.own_data, self.ndim = tensor.data_ptr(), False, tensor.dim()
        self._of = weakref.ref(tensor)

    def get(self):
        tensor = self._of()
        forbid(tensor is None, "the memory of this tensor has been freed: keep a name for what is unwrapped")
        return tensor


# --- Assets ----------------------------------------------------------------------------------------------------------

ALLOWED = {
    "mujoco": {"model"},
    "compiler": {"angle", "coordinate"},
    "worldbody": set(),
    "body": {"name", "pos", "quat"},
    "inertial": {"mass", "pos", "quat", "diaginertia"},
    "joint": {"name", "type", "axis", "range", "limited", "armature", "damping", "stiffness"},
    "geom": {"type", "size", "fromto", "pos", "quat", "contype", "conaffinity", "friction", "mass", "density"},
}


class Asset:
    """An element <body> of MJCF, and what there is to know about it."""

    def __init__(self, sim, body, options):
        self.sim, self.body, self.options = sim, body, options
        bodies, joints = list(body.iter("body")), list(body.iter("joint"))
        order = sorted if ORDER == "alphabet" else list
        self.body_names = order(item.get("name") for item in bodies)
        self.dof_names = order(joint.get("name") for joint in joints)
        self.inertials = {item.get("name"): item.find("inertial").attrib for item in bodies}
        self.num_shapes = sum(1 for _ in body.iter("geom"))
        self.dof_properties = np.zeros(len(joints), DOF_PROPERTIES)
        for joint in joints:
            row = self.dof_properties[self.dof_names.index(joint.get("name"))]
            row["hasLimits"] = joint.get("limited") == "true"
            row["lower"], row["upper"] = (float(x) for x in joint.get("range", "0 0").split())
            row["effort"] = row["velocity"] = 3.4e38
            row["driveMode"] = options.default_dof_drive_mode
            for name in ("armature", "damping", "stiffness"):
                row[name] = float(joint.get(name, 0))


def parse(path):
    """The body in an MJCF file; raises for whatever the original's importer is known to drop, or guesses at."""
    root = ElementTree.parse(path).getroot()
    for element in root.iter():
        forbid(element.tag not in ALLOWED, f"{path}: <{element.tag}> is not imported")
        for name in set(element.attrib) - ALLOWED[element.tag]:
            raise GymError(f"{path}: <{element.tag} {name}> is not imported")
    compiler = root.find("compiler")
    forbid(compiler is None or compiler.get("angle") != "radian", f"{path}: angles are degrees unless said otherwise")
    bodies = root.find("worldbody").findall("body")
    forbid(len(bodies) != 1, f"{path}: {len(bodies)} bodies on the world, one is imported")
    for body in bodies[0].iter("body"):
        name = body.get("name")
        inertial = body.find("inertial")
        forbid(inertial is None or not float(inertial.get("mass")) > 0, f"{path}: body {name} has no mass")
        forbid(len(body.findall("joint")) > 1, f"{path}: body {name} has several joints")
        for joint in body.findall("joint"):
            forbid(joint.get("limited") != "true", f"{path}: joint {joint.get('name')} has no limited='true'")
    return bodies[0]


def parse_urdf(path):
    """The body of a URDF's one link. A mesh is its convex hull, of 64 corners at most; the original makes coarser ones of
    others."""
    links = ElementTree.parse(path).getroot().findall("link")
    forbid(len(links) != 1, f"{path}: here one link")
    inertial = links[0].find("inertial")
    origin, moments = inertial.find("origin"), inertial.find("inertia")
    forbid(origin.get("rpy") != "0 0 0", f"{path}: inertias are not turned here")
    body = ElementTree.Element("body", name=links[0].get("name"))
    six = " ".join(moments.get(name) for name in ("ixx", "iyy", "izz", "ixy", "ixz", "iyz"))
    mass = inertial.find("mass").get("value")
    ElementTree.SubElement(body, "inertial", mass=mass, pos=origin.get("xyz"), fullinertia=six)
    for geometry in links[0].iterfind("collision/geometry"):
        (shape,) = geometry
        if shape.tag == "sphere":
            ElementTree.SubElement(body, "geom", type="sphere", size=shape.get("radius"))
            continue
        forbid(shape.tag != "mesh", f"{path}: <{shape.tag}> is not imported here")
        with open(os.path.join(os.path.dirname(path), shape.get("filename"))) as file:
            lines = [line.split() for line in file]
        corners = [x for line in lines if line[:1] == ["v"] for x in line[1:4]]
        forbid(len(corners) > 3 * 64, f"{path}: more than 64 corners")
        forbid(not any(line[:1] == ["f"] for line in lines), f"{path}: a mesh without faces")
        ElementTree.SubElement(body, "geom", type="mesh", corners=" ".join(corners))
    return body


# --- What stands in a simulation -------------------------------------------------------------------------------------


class Actor:
    def __init__(self, env, asset, pose, name, group, filter, index):
        self.env, self.asset, self.name, self.group, self.filter, self.index = env, asset, name, group, filter, index
        self.position, self.rotation = pose.p.array(), np.array([pose.r.w, pose.r.x, pose.r.y, pose.r.z])
        self.dof_properties = asset.dof_properties.copy()
        self.friction = [1.0] * asset.num_shapes
        self.color = None

    def collides(self, other):
        groups = self.group == other.group or -1 in (self.group, other.group)
        return groups and not self.filter & other.filter


def combine(friction1, friction2):
    """Of two shapes that touch."""
    return (friction1 + friction2) / 2


class Env:
    def __init__(self, sim, origin):
        self.sim, self.origin, self.actors, self.cameras = sim, origin, [], []

    def compile(self):
        """As one MuJoCo model. Shapes meet as explicit pairs, so that groups, filters and mean frictions are PhysX's."""
        sim, params = self.sim, self.sim.params
        root = ElementTree.Element("mujoco")
        ElementTree.SubElement(root, "compiler", angle="radian", autolimits="false")
        gravity = " ".join(str(x) for x in params.gravity.array())
        option = {"timestep": str(params.dt / params.substeps), "gravity": gravity, "integrator": "implicitfast"}
        ElementTree.SubElement(root, "option", option, impratio="10", iterations="10", jacobian="dense")
        tags = ("asset", "worldbody", "contact", "actuator")
        meshes, world, contact, actuator = (ElementTree.SubElement(root, tag) for tag in tags)
        shapes = [("ground", None, sim.ground.static_friction)]
        ElementTree.SubElement(world, "geom", name="ground", type="plane", size="0 0 1", contype="0", conaffinity="0")
        for a, actor in enumerate(self.actors):
            body = ElementTree.fromstring(ElementTree.tostring(actor.asset.body))
            body.set("pos", " ".join(str(x) for x in actor.position))
            body.set("quat", " ".join(str(x) for x in actor.rotation))
            if not actor.asset.options.fix_base_link:
                body.insert(0, ElementTree.Element("freejoint", name=f"{a}/root"))
            for item in body.iter("body"):
                item.set("name", f"{a}/{item.get('name')}")
                item.set("gravcomp", str(int(actor.asset.options.disable_gravity)))
            for joint in body.iter("joint"):
                properties = actor.dof_properties[actor.asset.dof_names.index(joint.get("name"))]
                joint.set("name", f"{a}/{joint.get('name')}")
                self._drive(joint, properties, actuator)
            for i, geom in enumerate(body.iter("geom")):
                for name, value in (("name", f"{a}/{i}"), ("contype", "0"), ("conaffinity", "0"), ("mass", "0")):
                    geom.set(name, value)
                geom.attrib.pop("density", None)
                if "corners" in geom.attrib:
                    ElementTree.SubElement(meshes, "mesh", name=f"{a}/{i}", vertex=geom.attrib.pop("corners"))
                    geom.set("mesh", f"{a}/{i}")
                shapes.append((f"{a}/{i}", actor, actor.friction[i]))
            world.append(body)
        for i, (name1, actor1, friction1) in enumerate(shapes):
            for name2, actor2, friction2 in shapes[:i]:
                if actor2 is None or actor1.collides(actor2):
                    sliding = combine(friction1, friction2)
                    friction = f"{sliding} {sliding} 0.005 0.0001 0.0001"
                    ElementTree.SubElement(contact, "pair", geom1=name1, geom2=name2, condim="3", friction=friction)
        self.model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, "unicode"))
        self.data = mujoco.MjData(self.model)

        def ids(kind, names):
            return np.array([mujoco.mj_name2id(self.model, kind, name) for name in names], int)

        of_actors = list(enumerate(self.actors))
        self.bodies = ids(
            mujoco.mjtObj.mjOBJ_BODY, [f"{a}/{name}" for a, x in of_actors for name in x.asset.body_names]
        )
        joints = [f"{a}/{name}" for a, x in of_actors for name in x.asset.dof_names]
        self.joints = ids(mujoco.mjtObj.mjOBJ_JOINT, joints)
        self.drives = ids(mujoco.mjtObj.mjOBJ_ACTUATOR, joints)
        self.roots = ids(mujoco.mjtObj.mjOBJ_BODY, [f"{a}/{x.asset.body.get('name')}" for a, x in of_actors])
        self.forces = np.zeros((self.model.nbody, 3))
        self.place()

    @staticmethod
    def _drive(joint, properties, actuator):
        """Implicit PD with a largest effort, as PhysX's drives are."""
        for name, field in (("armature", "armature"), ("frictionloss", "friction")):
            joint.set(name, str(properties[field]))
        joint.set("damping", "0")
        joint.set("range", f"{properties['lower']} {properties['upper']}")
        joint.set("limited", str(bool(properties["hasLimits"])).lower())
        if properties["driveMode"] == DofDriveMode.DOF_MODE_POS:
            kp, kd, effort = (float(properties[name]) for name in ("stiffness", "damping", "effort"))
            drive = {"name": joint.get("name"), "joint": joint.get("name"), "gainprm": str(kp)}
            drive.update(biastype="affine", biasprm=f"0 {-kp} {-kd}", forcelimited="true")
            ElementTree.SubElement(actuator, "general", drive, forcerange=f"{-effort} {effort}")

    def place(self):
        for function in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_comVel):
            function(self.model, self.data)

    def step(self, substeps):
        for _ in range(substeps):
            mujoco.mj_step(self.model, self.data)
        self.forces[:] = 0  # of the last substep's contacts, found before it moved things
        wrench = np.zeros(6)
        for i, contact in enumerate(self.data.contact[: self.data.ncon]):
            mujoco.mj_contactForce(self.model, self.data, i, wrench)
            force = contact.frame.reshape(3, 3).T @ wrench[:3]
            self.forces[self.model.geom_bodyid[contact.geom2]] += force
            self.forces[self.model.geom_bodyid[contact.geom1]] -= force
        self.place()

    def states(self, bodies):
        rows, motion = np.zeros((len(bodies), 13)), np.zeros(6)
        for row, body in zip(rows, bodies):
            row[:3], row[3:7] = self.data.xpos[body], np.roll(self.data.xquat[body], -1)
            mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_XBODY, body, motion, 0)
            row[7:10], row[10:] = motion[3:], motion[:3]
        if GLOBAL_ORIGINS:
            rows[:, :3] += self.origin
        return rows


class Sim:
    def __init__(self, params, graphics):
        self.params, self.graphics, self.ground = params, graphics, None
        self.device = "cuda:0" if params.use_gpu_pipeline else "cpu"
        self.envs, self.actors, self.tensors = [], [], {}
        self.fetched = True
        self.prepared = self.destroyed = self.drawn = self.rendered = False
        self.refreshed, self.set = set(), set()
        self.pending = []  # what setters do at the next step
        self.stepped = False
        self.viewers = []

    def check(self, prepared):
        forbid(self.destroyed, "this simulation has been destroyed")
        forbid(prepared and not self.prepared, "prepare_sim has not been called")
        forbid(prepared is False and self.prepared, "nothing can be added after prepare_sim")


class Viewer:
    """A window on a screen that nobody sees. Tests put ActionEvents into `typed`."""

    def __init__(self):
        self.typed, self.events, self.closed, self.actions, self.frames = [], [], False, {}, 0
        self.looked_at = None

    def poll(self):
        """What was polled before and not asked for is gone."""
        self.events, self.typed = self.typed, []


# --- The interface ---------------------------------------------------------------------------------------------------


def acquire_gym(*_):
    return Gym()


class Gym:
    sims = 0

    def __getattribute__(self, name):
        if name in FAILING:
            return lambda *args: FAILING[name]
        return super().__getattribute__(name)

    def create_sim(self, compute_device=0, graphics_device=0, type=SimType.SIM_PHYSX, params=None):
        forbid(Gym.sims and not MANY_SIMS, "a second simulation in a process crashes")
        forbid(type != SimType.SIM_PHYSX, "the tensor API knows PhysX only")
        forbid(params.use_gpu_pipeline and not params.physx.use_gpu, "a GPU pipeline needs physx.use_gpu")
        forbid(params.up_axis != UpAxis.UP_AXIS_Z, "here z is up")
        Gym.sims += 1
        return Sim(params, graphics_device)

    def destroy_sim(self, sim):
        sim.check(None)
        sim.destroyed = True

    def prepare_sim(self, sim):
        sim.check(False)
        forbid(not sim.envs or sim.ground is None, "there is nothing to simulate")
        for env in sim.envs:
            env.compile()
        sim.prepared = True
        return True

    # Building

    def add_ground(self, sim, params):
        sim.check(False)
        forbid(tuple(params.normal.array()) != (0.0, 0.0, 1.0), "the ground's normal is not up")
        sim.ground = params

    def load_asset(self, sim, rootpath, filename, options=None):
        sim.check(False)
        options = options or AssetOptions()
        forbid(options.collapse_fixed_joints, "bodies with fixed joints would vanish")
        read = parse_urdf if filename.endswith(".urdf") else parse
        return Asset(sim, read(os.path.join(rootpath, filename)), options)

    def create_box(self, sim, width, height, depth, options=None):
        sim.check(False)
        options = options or AssetOptions()
        mass = options.density * width * height * depth
        inertia = [mass / 12 * (b * b + c * c) for b, c in ((height, depth), (width, depth), (width, height))]
        body = ElementTree.Element("body", name="box")
        moments = " ".join(str(x) for x in inertia)
        ElementTree.SubElement(body, "inertial", mass=str(mass), pos="0 0 0", diaginertia=moments)
        ElementTree.SubElement(body, "geom", type="box", size=f"{width / 2} {height / 2} {depth / 2}")
        return Asset(sim, body, options)

    def create_env(self, sim, lower, upper, num_per_row):
        sim.check(False)
        size, i = upper.array() - lower.array(), len(sim.envs)
        sim.envs.append(Env(sim, np.array([i % num_per_row * size[0], i // num_per_row * size[1], 0.0])))
        return sim.envs[-1]

    def create_actor(self, env, asset, pose, name=None, group=-1, filter=-1, segmentationId=0):
        env.sim.check(False)
        forbid(asset.sim is not env.sim, "this asset is of another simulation")
        forbid(env is not env.sim.envs[-1], "actors must be added to the newest environment")
        forbid(filter < 0, "a filter below 0 is not known here")
        actor = Actor(env, asset, pose, name, group, filter, len(env.sim.actors))
        env.sim.actors.append(actor)
        env.actors.append(actor)
        return len(env.actors) - 1

    def get_asset_dof_names(self, asset):
        return list(asset.dof_names)

    def get_asset_rigid_body_names(self, asset):
        return list(asset.body_names)

    def get_actor_dof_names(self, env, actor_handle):
        return list(env.actors[actor_handle].asset.dof_names)

    def get_actor_rigid_body_names(self, env, actor_handle):
        return list(env.actors[actor_handle].asset.body_names)

    def get_actor_dof_properties(self, env, actor_handle):
        return env.actors[actor_handle].dof_properties.copy()

    def get_asset_dof_properties(self, asset):
        return asset.dof_properties.copy()

    def set_actor_dof_properties(self, env, actor_handle, properties):
        env.sim.check(False)
        actor = env.actors[actor_handle]
        forbid(properties.dtype != DOF_PROPERTIES or len(properties) != len(actor.dof_properties), "not its properties")
        actor.dof_properties = properties.copy()
        return True

    def get_actor_rigid_shape_properties(self, env, actor_handle):
        shapes = [RigidShapeProperties() for _ in env.actors[actor_handle].friction]
        for shape, friction in zip(shapes, env.actors[actor_handle].friction):
            shape.friction, shape.filter = friction, env.actors[actor_handle].filter
        return shapes

    def set_actor_rigid_shape_properties(self, env, actor_handle, properties):
        env.sim.check(False)
        actor = env.actors[actor_handle]
        forbid(len(properties) != len(actor.friction), "one entry per shape")
        actor.friction = [shape.friction for shape in properties]
        return True

    def get_actor_rigid_body_properties(self, env, actor_handle):
        asset = env.actors[actor_handle].asset
        bodies = [RigidBodyProperties() for _ in asset.body_names]
        for body, name in zip(bodies, asset.body_names):
            inertial = asset.inertials[name]
            com, quat, moments = (
                np.array(inertial.get(key, default).split(), float)
                for key, default in (("pos", "0 0 0"), ("quat", "1 0 0 0"), ("diaginertia", ""))
            )
            axes = np.zeros(9)
            mujoco.mju_quat2Mat(axes, quat / np.linalg.norm(quat))
            inertia = axes.reshape(3, 3) * moments @ axes.reshape(3, 3).T
            body.mass, body.com = float(inertial["mass"]), Vec3(*com)
            body.inertia.x, body.inertia.y, body.inertia.z = (Vec3(*row) for row in inertia)
        return bodies

    def set_rigid_body_color(self, env, actor_handle, body, mesh, color):
        env.actors[actor_handle].color = color

    def get_env_origin(self, env):
        return Vec3(*env.origin)

    def get_actor_index(self, env, actor_handle, domain):
        forbid(domain != IndexDomain.DOMAIN_SIM, "tensors are indexed over the whole simulation")
        return env.actors[actor_handle].index

    # Tensors

    def _acquire(self, sim, kind, rows, columns):
        import torch

        sim.check(True)
        if kind not in sim.tensors:
            sim.tensors[kind] = torch.full((rows, columns), math.nan, device=sim.device)
        return Tensor(sim.tensors[kind])

    def acquire_actor_root_state_tensor(self, sim):
        return self._acquire(sim, "actor_root_state", len(sim.actors), 13)

    def acquire_dof_state_tensor(self, sim):
        return self._acquire(sim, "dof_state", sum(len(actor.dof_properties) for actor in sim.actors), 2)

    def acquire_rigid_body_state_tensor(self, sim):
        return self._acquire(sim, "rigid_body_state", sum(len(actor.asset.body_names) for actor in sim.actors), 13)

    def acquire_net_contact_force_tensor(self, sim):
        return self._acquire(sim, "net_contact_force", sum(len(actor.asset.body_names) for actor in sim.actors), 3)

    def _refresh(self, sim, kind, rows):
        import torch

        sim.check(True)
        forbid(kind not in sim.tensors, f"the tensor {kind} has not been acquired")
        forbid(not sim.fetched and sim.device == "cpu", "fetch_results comes first")
        forbid(sim.set, "refreshing after a setter gives stale data until the next step")
        forbid(kind in sim.refreshed, f"{kind} has been refreshed since the last step")
        sim.refreshed.add(kind)
        sim.tensors[kind].copy_(torch.from_numpy(np.concatenate([rows(env) for env in sim.envs])))
        return True

    def refresh_actor_root_state_tensor(self, sim):
        return self._refresh(sim, "actor_root_state", lambda env: env.states(env.roots))

    def refresh_rigid_body_state_tensor(self, sim):
        return self._refresh(sim, "rigid_body_state", lambda env: env.states(env.bodies))

    def refresh_net_contact_force_tensor(self, sim):
        none = sim.params.physx.contact_collection == ContactCollection.CC_NEVER
        return self._refresh(sim, "net_contact_force", lambda env: env.forces[env.bodies] * (not none))

    def refresh_dof_state_tensor(self, sim):
        def rows(env):
            positions = env.data.qpos[env.model.jnt_qposadr[env.joints]]
            return np.stack((positions, env.data.qvel[env.model.jnt_dofadr[env.joints]]), 1)

        return self._refresh(sim, "dof_state", rows)

    def _values(self, sim, setter, tensor, shape, dtype="float32"):
        """What a setter was given, as a NumPy array."""
        sim.check(True)
        forbid(not isinstance(tensor, Tensor), f"{setter} takes what unwrap_tensor gives")
        values = tensor.get()
        forbid(str(values.dtype) != f"torch.{dtype}", f"{setter}: {values.dtype}, must be {dtype}")
        forbid(
            values.device.type != sim.device[:4].rstrip(":"), f"{setter}: on {values.device}, must be on {sim.device}"
        )
        forbid(values.numel() != math.prod(shape), f"{setter}: {tuple(values.shape)}, must be {shape}")
        return values.detach().cpu().numpy().reshape(shape)

    def _once(self, sim, tensor):
        forbid(tensor in sim.set, f"{tensor} is set a second time before the next step")
        sim.set.add(tensor)

    def _selected(self, sim, setter, indices, count):
        indices = self._values(sim, setter, indices, (count,), "int32")
        forbid(count < 1, f"{setter}: no actors")
        forbid(len(set(indices.tolist())) != count, f"{setter}: an actor is named twice")
        forbid(indices.min() < 0 or indices.max() >= len(sim.actors), f"{setter}: there is no such actor")
        return [sim.actors[i] for i in indices]

    def set_dof_position_target_tensor(self, sim, targets):
        dofs = sum(len(actor.dof_properties) for actor in sim.actors)
        values = self._values(sim, "set_dof_position_target_tensor", targets, (dofs,))
        self._once(sim, "dof position targets")
        sim.pending.append(functools.partial(self._drive, sim, values.copy()))
        return True

    def _drive(self, sim, values):
        for env, row in zip(sim.envs, np.split(values, len(sim.envs))):
            driven = env.drives >= 0
            env.data.ctrl[env.drives[driven]] = row[driven]

    def set_dof_state_tensor_indexed(self, sim, states, indices, num_indices):
        setter = "set_dof_state_tensor_indexed"
        counts = [len(actor.dof_properties) for actor in sim.actors]
        values = self._values(sim, setter, states, (sum(counts), 2))
        ends = np.cumsum(counts)
        self._once(sim, "dof states")
        for actor in self._selected(sim, setter, indices, num_indices):
            forbid(not counts[actor.index], f"{setter}: actor {actor.index} has no dofs")
            rows = values[ends[actor.index] - counts[actor.index] : ends[actor.index]].copy()
            sim.pending.append(functools.partial(self._bend, actor.env, rows))
        return True

    def _bend(self, env, rows):
        env.data.qpos[env.model.jnt_qposadr[env.joints]] = rows[:, 0]
        env.data.qvel[env.model.jnt_dofadr[env.joints]] = rows[:, 1]
        env.data.qacc_warmstart[:] = 0

    def set_actor_root_state_tensor_indexed(self, sim, states, indices, num_indices):
        setter = "set_actor_root_state_tensor_indexed"
        values = self._values(sim, setter, states, (len(sim.actors), 13))
        self._once(sim, "root states")
        for actor in self._selected(sim, setter, indices, num_indices):
            forbid(actor.asset.options.fix_base_link, f"{setter}: actor {actor.index} is fixed to the world")
            sim.pending.append(functools.partial(self._put, actor, values[actor.index].astype(float)))
        return True

    def _put(self, actor, row):
        env = actor.env
        body = env.roots[env.actors.index(actor)]
        joint = env.model.body_jntadr[body]
        place, motion = env.model.jnt_qposadr[joint], env.model.jnt_dofadr[joint]
        quat = np.roll(row[3:7], 1)
        env.data.qpos[place : place + 3] = row[:3] - GLOBAL_ORIGINS * env.origin
        env.data.qpos[place + 3 : place + 7] = quat
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, quat / np.linalg.norm(quat))
        env.data.qvel[motion : motion + 3] = row[7:10]
        env.data.qvel[motion + 3 : motion + 6] = rotation.reshape(3, 3).T @ row[10:]
        env.data.qacc_warmstart[:] = 0

    # Running

    def simulate(self, sim):
        sim.check(True)
        sim.stepped = True
        for apply in sim.pending:
            apply()
        sim.pending.clear()
        for env in sim.envs:
            env.step(sim.params.substeps)
        sim.set.clear()
        sim.refreshed.clear()
        sim.fetched = sim.drawn = sim.rendered = False
        for tensor in sim.tensors.values():
            tensor.fill_(math.nan)

    def fetch_results(self, sim, wait):
        sim.check(True)
        forbid(not wait, "the results may not be there yet")
        sim.fetched = True

    # Pictures

    def _graphics(self, sim):
        sim.check(None)
        forbid(sim.graphics < 0, "there is no graphics device")

    def create_camera_sensor(self, env, properties):
        self._graphics(env.sim)
        env.cameras.append([properties, np.zeros(3), np.array([1.0, 0.0, 0.0])])
        return len(env.cameras) - 1

    def set_camera_location(self, camera_handle, env, position, target):
        env.cameras[camera_handle][1:] = position.array(), target.array()

    def step_graphics(self, sim):
        self._graphics(sim)
        forbid(not sim.fetched, "fetch_results comes first")
        sim.drawn = True

    def render_all_camera_sensors(self, sim):
        forbid(not sim.drawn, "step_graphics comes first")
        sim.rendered = True

    def get_camera_image(self, sim, env, camera_handle, image_type):
        """White dots where the bodies are."""
        forbid(not sim.rendered, "render_all_camera_sensors comes first")
        forbid(image_type != ImageType.IMAGE_COLOR, "only colors here")
        properties, eye, target = env.cameras[camera_handle]
        image = np.zeros((properties.height, properties.width, 4), np.uint8)
        forward = (target - eye) / np.linalg.norm(target - eye)
        right = np.cross(forward, (0, 0, 1)) / np.linalg.norm(np.cross(forward, (0, 0, 1)))
        offsets = env.data.xpos[1:] - eye
        scale = properties.width / 2 / math.tan(math.radians(properties.horizontal_fov) / 2) / (offsets @ forward)
        x = properties.width / 2 + scale * (offsets @ right)
        y = properties.height / 2 - scale * (offsets @ np.cross(right, forward))
        seen = (x >= 0) & (x < properties.width) & (y >= 0) & (y < properties.height)
        image[y[seen].astype(int), x[seen].astype(int)] = 255
        return image.reshape(properties.height, -1)

    def create_viewer(self, sim, properties):
        self._graphics(sim)
        if not DISPLAY:
            return None
        sim.viewers.append(Viewer())
        return sim.viewers[-1]

    def destroy_viewer(self, viewer):
        viewer.closed = True

    def subscribe_viewer_keyboard_event(self, viewer, key, action):
        viewer.actions[key] = action

    def viewer_camera_look_at(self, viewer, env, position, target):
        forbid(viewer.closed, "the viewer is closed")
        viewer.looked_at = env

    def query_viewer_has_closed(self, viewer):
        return viewer.closed

    def query_viewer_action_events(self, viewer):
        events, viewer.events = viewer.events, []
        return events

    def poll_viewer_events(self, viewer):
        viewer.poll()

    def draw_viewer(self, viewer, sim, render_collision):
        forbid(not sim.drawn, "step_graphics comes first")
        viewer.poll()
        viewer.frames += 1
