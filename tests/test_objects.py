"""Objects as values: geometry by hand, physics in the engines, grasps of other shapes."""

import dataclasses
import io
import shutil
from importlib.util import find_spec

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
import trimesh

import dexhand_gym
from configs import parse, to_yaml
from dexhand_gym import meshes
from dexhand_gym.meshes import distance_to_hull, load_mesh, mesh_distance
from dexhand_gym.objects import Box, Capsule, Cylinder, Ellipsoid, Mesh, Object, Sphere
from dexhand_gym.shapes import distance, inertia
from dexhand_gym.sim import Scene, SimConfig, make_sim
from dexhand_gym.sim.mjcf import build_model
from dexhand_gym.sim.varied import SOLID
from examples.scripted_grasp import scripted_env, success_rate

WARP = [pytest.param("mjwarp", marks=pytest.mark.slow)] if find_spec("mujoco_warp") else []
ENGINES = ["mujoco", *WARP]
TETRAHEDRON = "v 0 0 0\nv 4 0 0\nv 0 4 0\nv 0 0 4\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
PLY = b"""ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
0 0 0
1 0 0
0 1 0
0 0 1
3 1 2 %s
"""
TETRA = [(0, 0, 0), (0.1, 0, 0), (0, 0.1, 0), (0, 0, 0.1)]
CUBE = "".join(f"v {x} {y} {z}\n" for x in (0, 2) for y in (0, 2) for z in (0, 2)) + "f 1 2 3\nf 4 5 6\nf 6 7 8\n"


def device_of(backend):
    return "cuda" if backend == "mjwarp" and torch.cuda.is_available() else "cpu"


@pytest.fixture
def cube(tmp_path):
    """A mesh that is a cube of 5 cm: only its corners count."""
    (tmp_path / "cube.obj").write_text(CUBE)
    return Mesh(file=str(tmp_path / "cube.obj"), size=0.05)


# --- Geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "size", "mass", "drawn"),
    [
        ("--test --checkpoint pretrained --env.object.mass 5", 0.05, 5.0, ("size", "friction")),
        ("--test --checkpoint pretrained --env.object.size 0.04 0.05 0.06", (0.04, 0.05, 0.06), 0.1, ("mass", "friction")),
        ("--test --checkpoint pretrained", 0.05, 0.1, ("size", "mass", "friction")),
        ("--env.object.size 0.04 0.05 0.06 --task.randomize.box-size 0.04 0.09", (0.04, 0.05, 0.06), 0.1, ("size",)),
        ("--env.object.mass 5 --task.randomize.box-mass None", 0.05, 5.0, ()),
    ],
)  # fmt: skip
def test_what_a_command_says_of_the_object_is_not_drawn(options, size, mass, drawn, caplog):
    caplog.set_level("INFO")
    cfg = parse(["--task", "BoxGrasping", *options.split()])
    ranges = {name: getattr(cfg.task.randomize, f"box_{name}") for name in ("size", "mass", "friction")}
    assert (cfg.env.object.size, cfg.env.object.mass) == (size, mass)
    assert tuple(name for name, found in ranges.items() if found) == drawn
    assert ("which is not drawn" in caplog.text) == ("pretrained --env.object" in options)


def test_an_object_and_its_range_are_not_both_said():
    with pytest.raises(ValueError, match="env.object.mass = 5 does nothing next to task.randomize.box_mass"):
        parse(["--task", "BoxGrasping", "--env.object.mass", "5", "--task.randomize.box-mass", "0.1", "0.2"])


@pytest.mark.parametrize(
    ("thing", "extents", "height"),
    [
        (Box(), (0.05, 0.05, 0.05), 0.025),
        (Box(size=(0.02, 0.04, 0.06)), (0.02, 0.04, 0.06), 0.03),
        (Sphere(size=0.06), (0.06, 0.06, 0.06), 0.03),
        (Cylinder(size=(0.04, 0.1)), (0.04, 0.04, 0.1), 0.05),
        (Cylinder(size=0.04), (0.04, 0.04, 0.04), 0.02),
        (Capsule(size=(0.04, 0.1)), (0.04, 0.04, 0.1), 0.02),
        (Capsule(size=0.1), (0.05, 0.05, 0.1), 0.025),
        (Ellipsoid(size=(0.04, 0.06, 0.1)), (0.04, 0.06, 0.1), 0.02),
        (Ellipsoid(size=(0.08, 0.06, 0.1)), (0.08, 0.06, 0.1), 0.03),
    ],
)
def test_extents_and_resting_height(thing, extents, height):
    thing.validate()
    assert thing.extents == pytest.approx(extents)
    assert thing.rest()[0] == pytest.approx(height)


@pytest.mark.parametrize(
    ("shape", "half", "point", "expected"),
    [
        ("box", (1, 2, 3), (1, 2, 3), 0),
        ("box", (1, 2, 3), (4, 6, 3), 5),
        ("box", (1, 2, 3), (0, 0, -5), 2),
        ("sphere", (2, 2, 2), (0, 3, 4), 3),
        ("sphere", (2, 2, 2), (1, 0, 0), 0),
        ("cylinder", (2, 2, 3), (3, 4, 0), 3),
        ("cylinder", (2, 2, 3), (3, 4, 7), 5),
        ("cylinder", (2, 2, 3), (0, 1, 5), 2),
        ("capsule", (1, 1, 3), (0, 0, 5), 2),
        ("capsule", (1, 1, 3), (3, 4, 1), 4),
        ("capsule", (1, 1, 3), (3, 0, 6), 4),
        ("ellipsoid", (1, 2, 3), (0, 0, 5), 2),
        ("ellipsoid", (1, 2, 3), (0, 4, 0), 2),
        ("ellipsoid", (1, 2, 3), (0, 0, 0.5), 0),
    ],
)
def test_distance_to_the_surface_by_hand(shape, half, point, expected):
    found = distance(shape, torch.tensor([[point]], dtype=torch.float32), torch.tensor([[half]], dtype=torch.float32))
    assert found.shape == (1, 1)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_inertia_by_hand():
    one, half = torch.tensor([2.0]), torch.tensor([[1.0, 1.0, 3.0]])
    assert inertia("box", one, half)[0].tolist() == pytest.approx([20 / 3, 20 / 3, 4 / 3])
    assert inertia("sphere", one, torch.ones(1, 3))[0].tolist() == pytest.approx([0.8] * 3)
    assert inertia("cylinder", one, half)[0].tolist() == pytest.approx([6.5, 6.5, 1.0])
    assert inertia("capsule", one, torch.ones(1, 3))[0].tolist() == pytest.approx([0.8] * 3), "two half spheres"


def test_distance_to_a_mesh(cube):
    torch.manual_seed(0)
    points = (torch.rand(7, 30, 3) - 0.5) * 0.3
    exact = distance("box", points.clone(), torch.full((7, 1, 3), 0.025))
    found = mesh_distance(points, cube.file, cube.size)
    near = points.abs().amax(-1) < 0.075
    assert 10 < near.sum() < 100
    assert (found - exact)[near].abs().max() < 2e-3, "a table of cells of 5 mm"
    assert ((found / exact)[~near] - 1).abs().max() < 0.15, "it tells the way there, which is no straight line"
    (hull,) = load_mesh(cube.file, cube.size).hulls
    assert (len(hull.vertices), len(hull.faces)) == (8, 12)
    assert hull.volume == pytest.approx(0.05**3, rel=1e-5)
    np.testing.assert_allclose(distance_to_hull(points[0].numpy(), hull), exact[0], atol=1e-6)


def test_a_mesh_is_scaled_and_centred(tmp_path):
    (tmp_path / "a.obj").write_text(TETRAHEDRON)
    solid = load_mesh(str(tmp_path / "a.obj"), 0.08)
    assert solid.extents == pytest.approx((0.08, 0.08, 0.08))
    assert sorted(map(tuple, solid.hulls[0].vertices.round(6).tolist()))[0] == pytest.approx((-0.04, -0.04, -0.04))


@pytest.fixture
def trough(tmp_path, monkeypatch):
    """A U of 10 cm: a floor and two walls of 2 cm, and between them a gap of 6 cm."""
    monkeypatch.setattr(meshes, "cache", lambda: tmp_path / "cache")  # of meshes alone: Warp keeps its kernels
    corners = [(0, 0), (10, 0), (10, 6), (8, 6), (8, 2), (2, 2), (2, 6), (0, 6)]
    mesh = trimesh.creation.extrude_triangulation(
        np.array(corners, float), np.array([[0, 1, 4], [0, 4, 5], [1, 2, 4], [2, 3, 4], [0, 5, 7], [5, 6, 7]]), 10
    )
    return Mesh.of_vertices(mesh.vertices[:, [0, 2, 1]], mesh.faces[:, ::-1], size=0.1, parts=4, mass=1.0)


def test_a_mesh_of_several_parts(trough, monkeypatch):
    solid = load_mesh(trough.file, 0.1, 4)
    kept = list(meshes.cache().glob("*.npz"))
    assert 3 <= len(solid.hulls) <= 4 and solid.extents == pytest.approx((0.1, 0.1, 0.06), abs=2e-3)
    assert sum(hull.volume for hull in solid.hulls) == pytest.approx((10 * 6 - 6 * 4) * 10e-6, rel=0.05)
    assert load_mesh(trough.file, 0.1).hulls[0].volume == pytest.approx(10 * 6 * 10e-6, rel=0.01)
    in_the_gap = torch.tensor([[[0.0, 0.0, 0.02]]])
    assert mesh_distance(in_the_gap, trough.file, 0.1, 1).item() == 0.0, "within the hull"
    assert mesh_distance(in_the_gap, trough.file, 0.1, 4).item() == pytest.approx(0.03, abs=5e-3), "to floor and walls"
    meshes._load_mesh.cache_clear()
    with monkeypatch.context() as without:
        without.setattr("coacd.run_coacd", lambda *args, **kwargs: pytest.fail("it is kept"))
        assert load_mesh(trough.file, 0.1, 4).extents == solid.extents
    whole = kept[0].read_bytes()
    for damage in (whole[:100], b"", b"PK\5\6" + bytes(18), npz(np.zeros((2, 3))), npz(np.full((5, 3), np.nan)), npz()):
        for file in kept:
            file.write_bytes(damage)
        meshes._load_mesh.cache_clear()
        assert load_mesh(trough.file, 0.1, 4).extents == solid.extents, "a broken file is made again"
    assert not [file for file in meshes.cache().iterdir() if file.suffix not in (".npz", ".ply")], "nothing unfinished"


def npz(*arrays):
    stream = io.BytesIO()
    np.savez(stream, *arrays)
    return stream.getvalue()


@pytest.mark.parametrize("backend", ENGINES)
def test_a_ball_falls_into_a_trough_of_several_parts(backend, trough):
    """And lies on its hull, which is not shown again on an engine that is slow without a GPU."""
    for parts in (1, 4) if backend == "mujoco" else (4,):
        ball_in(backend, dataclasses.replace(trough, parts=parts, name="trough"))


def ball_in(backend, trough):
    ball = Sphere(size=0.03, mass=0.05)
    sim = make_sim(Scene(0.6, objects=(trough, ball)), 2, SimConfig(), 1, backend, device_of(backend))
    rests = 0.075 if trough.parts == 1 else 0.035
    sim.root_state[:, 2, 2] = rests + 0.005
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(15):
        sim.step(hold)
    assert sim.root_state[:, 2, 2].tolist() == pytest.approx([rests] * 2, abs=3e-3)
    weight = sim.net_contact_force[:, sim.body_names.index("trough"), 2]
    assert weight.tolist() == pytest.approx([9.81] * 2, rel=0.05)


@pytest.mark.parametrize(
    ("vertices", "more", "message"),
    [
        ([], {}, "vertices: shape"),
        ([(0, 1), (1, 0), (1, 1), (0, 0)], {}, "vertices: shape"),
        ([(0, 0, 0), (1, 0)], {}, "vertices: "),
        ([(0, 0, 0), (0.1, 0, 0)], {}, "it has 2 vertices, allowed are 4 or more"),
        ([*TETRA[:3], (0, 0, float("nan"))], {}, "vertices: a vertex is not finite"),
        ([(0, 0, 0), (0.1, 0, 0.1), (0, 0.1, 0.1), (0.1, 0.1, 0.2)], {}, "vertices: it is flat"),
        ([[1000 * x for x in row] for row in TETRA], {}, "vertices: they span 100 m, allowed is 0.001 to 1 m"),
        (TETRA, {"faces": [[0, 1, 9]]}, "vertices: a face names vertex 9 of 4"),
        (TETRA, {"faces": [[0, 1, -1]]}, "vertices: a face names vertex -1 of 4"),
        (TETRA, {"faces": [[0.5, 1, 2]]}, "faces: shape"),
        (TETRA, {"file": "a.obj"}, "file = 'a.obj': allowed is a file or vertices"),
    ],
)
def test_vertices_that_are_no_solid_are_one_line(tmp_path, monkeypatch, vertices, more, message):
    monkeypatch.setattr(meshes, "cache", lambda: tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        Mesh.of_vertices(vertices, **more)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, trough):
    """Costs the computation again; a mesh of vertices has to be kept."""
    (tmp_path / "taken").write_text("")
    file = shutil.copyfile(trough.file, tmp_path / "mine.ply")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert len(load_mesh(str(file), 0.1, 2).hulls) == 2
    with pytest.raises(ValueError, match="is not written, .*: XDG_CACHE_HOME may name another folder"):
        Mesh.of_vertices(TETRA)


def test_a_file_that_changes_is_read_again(tmp_path):
    file = tmp_path / "a.obj"
    file.write_text(TETRAHEDRON)
    before = load_mesh(str(file), 0.08).extents, mesh_distance(torch.zeros(1, 1, 3) + 0.05, str(file), 0.08).item()
    file.write_text(TETRAHEDRON.replace("v 0 0 4", "v 0 0 2.0"))
    after = load_mesh(str(file), 0.08).extents, mesh_distance(torch.zeros(1, 1, 3) + 0.05, str(file), 0.08).item()
    assert before[0][2] == pytest.approx(0.08) and after[0][2] == pytest.approx(0.04) and before[1] != after[1]


def test_a_fine_mesh_has_a_hull_of_few_corners(tmp_path):
    file = tmp_path / "ball.stl"
    trimesh.creation.icosphere(4).export(file)
    (hull,) = load_mesh(str(file), 0.06).hulls
    assert len(hull.vertices) == meshes.CORNERS and hull.volume == pytest.approx(4 / 3 * np.pi * 0.03**3, rel=0.1)
    assert mesh_distance(torch.tensor([[[0.0, 0.0, 0.06]]]), str(file), 0.06).item() == pytest.approx(0.03, abs=2e-3)


def test_a_mesh_of_vertices(tmp_path, monkeypatch):
    monkeypatch.setattr(meshes, "cache", lambda: tmp_path)
    corners = [(x, y, z) for x in (0, 0.04) for y in (0, 0.05) for z in (0, 0.06)]
    thing = Mesh.of_vertices(corners, mass=0.3)
    assert thing.extents == pytest.approx((0.04, 0.05, 0.06)) and (thing.mass, thing.size) == (0.3, 0.06)
    assert Mesh.of_vertices(corners).file == thing.file, "one file for the same vertices"


# --- Mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--env.object.shape cone", "env.object.shape: unknown name 'cone'"),
        ("--env.object.shape sphere --env.object.size 0.05 0.05", "allowed for a sphere is 1 numbers"),
        ("--env.object.shape capsule --env.object.size 0.05 0.04", "a capsule at least as long as it is wide"),
        ("--env.object.size 2", "env.object.size = "),
        ("--env.object.shape mesh", "env.object.file = '': allowed is a file for the shape mesh"),
        ("--env.object.shape mesh --env.object.file nothing.obj", "mesh 'nothing.obj': allowed is a file that exists"),
        ("--env.object.file a.obj", "allowed is a file for the shape mesh and for no other"),
        ("--env.object.fixed True", "env.object.fixed = True: allowed is False"),
        ("--env.object.condim 5", "env.object.condim"),
        (
            "--env.object.shape mesh --env.object.file cube.obj --task.randomize.box-size 0.04 0.06",
            "for a mesh is None",
        ),
    ],
)
def test_a_mistake_is_one_line(line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cube.obj").write_text(CUBE)

    def make():
        cfg = parse(f"--task BoxGrasping --num-envs 2 {line}".split())
        gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=2, cfg=cfg, backend="none")

    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nf 1 2 3\n",
        b"v 0 0 0\nv 1 0 1\nv 0 1 1\nv 1 1 2\nf 1 2 3\nf 2 3 4\n",
        b"\x00\xff" * 100,
        b"v nan 0 0\n" * 5,
        PLY % b"-5",
        PLY % b"999999",
    ],
    ids=["empty", "flat", "flat on a slant", "binary", "nan", "vertex -5", "vertex 999999"],
)
def test_a_file_that_is_no_mesh_is_one_line(tmp_path, content):
    for suffix in (".obj", ".stl", ".ply"):
        (tmp_path / f"bad{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=f"bad{suffix}") as caught:
            load_mesh(str(tmp_path / f"bad{suffix}"), 0.05, parts=2)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["", "nowhere.obj", "x" * 400 + ".obj", "a\0.obj", ".", "mesh.step"])
def test_a_file_that_cannot_be_there_is_one_line(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mesh.step").write_text("")
    with pytest.raises(ValueError, match="allowed is a file that exists, .obj, .stl or .ply") as caught:
        load_mesh(file, 0.05)
    assert "\n" not in str(caught.value)


def test_names_of_objects_differ():
    class Two(dexhand_gym.envs.base_task.BaseTask):
        def scene(self):
            return Scene(objects=(Box(), Box()))

    with pytest.raises(ValueError, match="'box' is there twice"):
        Two(dexhand_gym.envs.config.Config(task=Two.config(), env=dexhand_gym.envs.config.EnvConfig(2, backend="none")))


# --- Ways to say it --------------------------------------------------------------------------------------------------


def test_the_older_name_of_the_object():
    cfg = parse(["--task", "BoxGrasping", "--env.box.size", "0.06", "env.box.mass=0.2"])
    assert (cfg.env.object.size, cfg.env.box.mass) == (0.06, 0.2)
    env = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=2, backend="none", **{"env.box.size": 0.04}, mass=0.3)
    assert (env.unwrapped.cfg.env.object.size, env.unwrapped.cfg.env.object.mass) == (0.04, 0.3)
    with pytest.raises(TypeError, match="'object' and 'box' are the same environment option"):
        gymnasium.make_vec(
            "DexHand/BoxGrasping-v0", num_envs=2, backend="none", box={"mass": 0.2}, object=Box(size=0.06)
        )
    assert Scene(boxes=(Box(),)).objects == Scene(objects=(Box(),)).boxes


def test_a_shape_survives_its_config_file(tmp_path):
    cfg = parse(
        [
            "--task",
            "BoxGrasping",
            "--env.object.shape",
            "capsule",
            "--env.object.size",
            "0.04",
            "0.1",
            "--env.object.condim",
            "6",
        ]
    )
    (tmp_path / "config.yaml").write_text(to_yaml(cfg))
    again = parse(["--config", str(tmp_path / "config.yaml")])
    assert again.env.object == cfg.env.object == Object(shape="capsule", size=(0.04, 0.1), condim=6)


# --- Physics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ENGINES)
def test_every_shape_rests_as_high_as_it_says_and_weighs_what_it_says(backend, cube):
    things = (
        Box(size=(0.04, 0.06, 0.03)),
        Sphere(condim=6, rolling_friction=0.01),
        Cylinder(size=(0.05, 0.04)),
        Capsule(size=(0.04, 0.1), condim=6, rolling_friction=0.01),
        Ellipsoid(size=(0.06, 0.07, 0.04), condim=6, rolling_friction=0.01),
        cube,
        Box("table", size=(0.2, 0.2, 0.02), fixed=True, position=(0.0, 2.0, 0.3)),
    )
    sim = make_sim(Scene(objects=things), 2, SimConfig(), 1, backend, device_of(backend))
    assert sim.actor_names == ["hand", "box", "sphere", "cylinder", "capsule", "ellipsoid", "mesh"]
    assert sim.body_names[-7:] == ["table", *sim.actor_names[1:]]
    for i, thing in enumerate(things[:-1], 1):
        height, quat = thing.rest()
        sim.root_state[:, i, :7] = torch.tensor([1.0, 0.3 * i, height, *quat], device=sim.device)
        sim.root_state[:, i, 7:] = 0.0
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(40):
        sim.step(hold)
    for i, thing in enumerate(things[:-1], 1):
        assert sim.root_state[0, i, 2].item() == pytest.approx(thing.rest()[0], abs=1e-3), thing.name
        assert sim.net_contact_force[0, i - 7, 2].item() == pytest.approx(0.981, rel=0.02), thing.name
    assert sim.rigid_body_state[0, -7, :3].tolist() == pytest.approx([0.0, 2.0, 0.3])


@pytest.mark.parametrize("backend", ENGINES)
def test_what_rolls_on_is_stopped_by_rolling_friction(backend):
    """Pushed to 0.5 m/s a sphere rolls on for ever, or stops."""
    rolls, stops = Sphere("rolls"), Sphere("stops", condim=6, rolling_friction=0.005)
    sim = make_sim(Scene(objects=(rolls, stops)), 1, SimConfig(), 1, backend, device_of(backend))
    for i in (1, 2):
        sim.root_state[:, i, :3] = torch.tensor([1.0, 0.4 * i, 0.025], device=sim.device)
        sim.root_state[:, i, 7:] = torch.tensor([0.5, 0.0, 0.0, 0.0, 0.5 / 0.025, 0.0], device=sim.device)
    sim.write_state(torch.ones(1, dtype=torch.bool, device=sim.device))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(75):
        sim.step(hold)
    assert sim.root_state[0, 1, 7] > 0.4
    assert sim.root_state[0, 2, 7].abs() < 0.05


@pytest.mark.parametrize("backend", ENGINES)
def test_a_variation_changes_some_environments_and_goes_with_the_memory(backend):
    sim = make_sim(Scene(objects=(Box(),)), 3, SimConfig(), 1, backend, device_of(backend))
    hold = sim.dof_state[..., 0].clone()
    some = torch.tensor([False, True, True], device=sim.device)
    sim.vary({"box.mass": torch.tensor([9.0, 0.2, 0.3], device=sim.device)}, some)
    sim.vary({"box.friction": torch.tensor([0.2, 0.2, 0.2])})
    damping = torch.tensor(sim.model.dof_damping).repeat(3, 1)
    damping[2] *= 2
    sim.vary({"dof_damping": damping})
    sim.write_state(torch.ones(3, dtype=torch.bool, device=sim.device))
    for _ in range(40):
        sim.step(hold)
    assert sim.net_contact_force[:, -1, 2].tolist() == pytest.approx([0.981, 1.962, 2.943], rel=1e-3)
    memory = sim.memory()
    assert memory["body_mass"][:, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert memory["dof_damping"][2, 0] == 2 * memory["dof_damping"][0, 0]
    for name, message in (
        ("box.frictions", "did you mean 'box.friction'"),
        ("dof_dampin", "did you mean 'dof_damping'"),
    ):
        with pytest.raises(ValueError, match=message):
            sim.vary({name: torch.ones(3)})
    for name, values in (("dof_damping", torch.ones(3)), ("box.mass", torch.ones(3, 1)), ("box.mass", 0.1)):
        with pytest.raises(ValueError, match=f"variation '{name}': shape"):
            sim.vary({name: values})


@pytest.mark.parametrize("backend", ENGINES)
def test_a_variation_finds_its_object_among_what_a_task_has_added(backend):
    """A table behind it, and a knob on it."""

    def table(spec):
        spec.worldbody.add_body(name="table", pos=[0.5, 0, 0]).add_geom(size=[0.1] * 3, type=mujoco.mjtGeom.mjGEOM_BOX)

    sim = make_sim(Scene(0.6, objects=(Box(),), edit_spec=table), 2, SimConfig(), 1, backend, device_of(backend))
    sim.vary({"box.size": torch.tensor([0.05, 0.1]), "box.mass": torch.tensor([0.1, 1.0])})
    sim.root_state[:, 1, 2] = torch.tensor([0.025, 0.05])
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(20):
        sim.step(hold)
    assert sim.root_state[:, 1, 2].tolist() == pytest.approx([0.025, 0.05], abs=1e-3)
    force = sim.net_contact_force[:, sim.body_names.index("box"), 2]
    assert force.tolist() == pytest.approx([0.981, 9.81], rel=1e-2)


def test_a_body_of_several_geoms_keeps_its_size():
    def knob(spec):
        spec.body("box").add_geom(size=[0.01] * 3, pos=[0, 0, 0.03], contype=2, conaffinity=3, mass=0.1)

    sim = make_sim(Scene(0.6, objects=(Box(),), edit_spec=knob), 2, SimConfig(), 1, "mujoco", "cpu")
    with pytest.raises(ValueError, match="variation 'box.size': its body has 2 geoms"):
        sim.vary({"box.size": torch.tensor([0.05, 0.1])})
    sim.vary({"box.mass": torch.tensor([0.2, 0.4])})
    inertia = sim.memory()["body_inertia"][:, 0]
    assert inertia[0].tolist() == pytest.approx(sim.model.body("box").inertia.tolist())
    torch.testing.assert_close(inertia[1], 2 * inertia[0])


@pytest.mark.parametrize("backend", ENGINES)
def test_a_mass_weighs_however_it_is_said(backend):
    sim = make_sim(Scene(0.6, objects=(Box(),)), 2, SimConfig(), 1, backend, device_of(backend))
    sim.vary({"box.friction": torch.tensor([0.5, 1.0])})
    masses = torch.tensor(sim.model.body_mass).repeat(2, 1)
    masses[:, -1] = torch.tensor([0.2, 0.5])
    friction = torch.tensor(sim.model.geom_friction).repeat(2, 1, 1)
    sim.vary({"body_mass": masses, "geom_friction": friction})
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(20):
        sim.step(hold)
    assert sim.net_contact_force[:, -1, 2].tolist() == pytest.approx([1.962, 4.905], rel=1e-2)
    assert sim.memory()["geom_friction"].shape == (2, len(friction[0]), 3)
    for name, values in (
        ("body_parentid", torch.zeros(2, 3)),
        ("dof_damping", torch.zeros(1, sim.model.nv)),
        ("dof_damping", 3),
    ):
        with pytest.raises(ValueError, match="^variation"):
            sim.vary({name: values})
    for variation in (None, [1], {3: torch.ones(2)}):
        with pytest.raises(ValueError, match="^variation = .*allowed is a dict"):
            sim.vary(variation)


def test_a_variation_is_checked_in_the_rehearsal():
    sim = make_sim(Scene(objects=(Box(), Mesh(file="a.obj"))), 3, SimConfig(), 1, "none", "cpu")
    sim.vary({"box.mass": torch.ones(3), "dof_damping": torch.ones(3, 26)})
    for name, values, message in (
        ("box.maas", torch.ones(3), "did you mean 'box.mass'"),
        ("mesh.size", torch.ones(3), "unknown name 'mesh.size'"),
        ("box.mass", torch.ones(2), r"variation 'box.mass': shape \(2,\), allowed is a tensor \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            sim.vary({name: values})


def test_a_scene_without_objects_can_be_made_of_one_with():
    assert dataclasses.replace(Scene(boxes=(Box(),)), objects=()).objects == ()


SHAPES = [
    {"shape": "sphere", "size": 0.055},
    {"shape": "capsule", "size": (0.045, 0.08)},
    {"shape": "cylinder", "size": 0.05},
    {"shape": "ellipsoid", "size": (0.06, 0.06, 0.05)},
    {"shape": "box", "size": (0.05, 0.06, 0.05)},
]


def grasp(fields, backend="mujoco", n=16):
    return scripted_env(n, seed=0, backend=backend, device=device_of(backend), **fields)


def of_object(fields):
    return {"env.object.condim": 6, **{f"env.object.{name}": value for name, value in fields.items()}}


@pytest.mark.slow
@pytest.mark.parametrize("fields", SHAPES, ids=lambda fields: fields["shape"])
def test_the_scripted_grasp_lifts_other_shapes(fields):
    assert success_rate(grasp(of_object(fields), n=48)) >= 0.4


@pytest.mark.slow
def test_the_scripted_grasp_lifts_a_mesh(cube):
    assert success_rate(grasp(of_object({"shape": "mesh", "file": cube.file}))) >= 0.4


@pytest.mark.slow
@pytest.mark.skipif(not WARP, reason="MuJoCo Warp is not installed")
@pytest.mark.parametrize("fields", [*SHAPES, {"shape": "mesh", "size": 0.05}], ids=lambda fields: fields["shape"])
def test_what_one_engine_lifts_the_other_lifts(fields, cube):
    """From the closed hands of MuJoCo both lift for 0.8 s."""
    fields = of_object({**fields, "file": cube.file} if fields["shape"] == "mesh" else fields)
    envs = [grasp(fields, backend).unwrapped for backend in ("mujoco", "mjwarp")]
    envs[0].reset(seed=0)
    for _ in range(165):
        envs[0].step(torch.zeros(16, 0))
    state = envs[0].get_state()
    envs[1].generator.manual_seed(0)
    envs[1].set_state({**state, "generator": envs[1].generator.get_state()})
    risen = []
    for env in envs:
        start = env.measured["object_pos"][:, 2].cpu().clone()
        for _ in range(40):
            env.step(torch.zeros(16, 0, device=env.device))
        risen.append(env.measured["object_pos"][:, 2].cpu() - start > 0.04)
    assert risen[0].float().mean() >= 0.4
    assert (risen[0] & risen[1]).sum() >= 0.8 * risen[0].sum()


def test_an_edit_of_the_model_reaches_every_reader():
    class Heavy(dexhand_gym.envs.box_grasping.BoxGrasping):
        def edit_spec(self, spec):
            spec.geom("box").mass = 0.4
            spec.geom("box").rgba = [1, 0, 0, 1]

    config = dexhand_gym.envs.config
    env = Heavy(config.Config(task=Heavy.config(), env=config.EnvConfig(2, backend="mujoco")))
    assert env.sim.model.body("box").mass == 0.4
    env.sim.root_state[:, 1, :3] = torch.tensor([1.0, 0.0, 0.025])
    env.sim.write_state(torch.ones(2, dtype=torch.bool))
    hold = env.sim.dof_state[..., 0].clone()
    for _ in range(40):
        env.sim.step(hold)
    assert env.sim.net_contact_force[:, -1, 2].tolist() == pytest.approx([0.4 * 9.81] * 2, rel=1e-3), "its weight too"
    env.sim.vary({"box.friction": torch.tensor([0.5, 0.6])})
    assert env.sim.memory()["body_mass"][:, 0].tolist() == [0.4, 0.4], "a variation of something else leaves it"
    assert build_model(env.sim.scene, env.cfg.sim, visuals=True).geom("box").rgba.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("backend", ENGINES)
def test_worlds_may_have_different_meshes(backend, cube):
    """One geom, which is a cube of 5 cm here and a box of 9 cm there."""
    tall = [(x, y, z) for x in (-0.025, 0.025) for y in (-0.025, 0.025) for z in (-0.045, 0.045)]

    def add_tall(spec):
        spec.add_mesh(name="tall", uservert=np.array(tall).flatten())
        mesh = mujoco.mjtGeom.mjGEOM_MESH  # out of reach: a mesh of no geom would be left out
        spec.worldbody.add_geom(type=mesh, meshname="tall", pos=[0, 0, 5], contype=2, conaffinity=2)

    cube.name = "box"
    scene = Scene(0.6, objects=(cube,), edit_spec=add_tall)
    sim = make_sim(scene, 2, SimConfig(), 1, backend, device_of(backend))
    model = sim.model if backend == "mujoco" else build_model(scene, SimConfig())
    here, there = model.geom("box").id, model.mesh("tall").id
    fields = {name: torch.tensor(np.array([getattr(model, name)] * 2)) for name in ("geom_dataid", "geom_quat", *SOLID)}
    fields["geom_dataid"][1, here] = there
    fields["geom_quat"][1, here] = torch.tensor(model.mesh_quat[there])
    fields["geom_rbound"][1, here] = fields["geom_size"][1, here, 0] = 0.06
    fields["geom_aabb"][1, here, 3:] = 0.06
    sim.vary(fields)
    sim.root_state[:, 1, 2] = 0.05
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(15):
        sim.step(hold)
    assert sim.root_state[:, 1, 2].tolist() == pytest.approx([0.025, 0.045], abs=2e-3)
