"""Sets of objects: sizes and poses by hand, limits, what does not lie still in an engine, folders that are none."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import trimesh

from dexhand_gym import meshes, resting
from dexhand_gym.antipodal import friction_needed
from dexhand_gym.convex import SOLIDS, directions, stretched
from dexhand_gym.fields import check
from dexhand_gym.meshes import distance_to_hull, load_mesh
from dexhand_gym.object_sets import DENSITY, SETS, family, load_set, volume
from dexhand_gym.objects import Box, Capsule, Cylinder, Ellipsoid, Mesh, Sphere
from dexhand_gym.resting import grasp_width, profiles, resting_poses, settled, turned_down
from dexhand_gym.shapes import distance
from dexhand_gym.sim import Scene, SimConfig, make_sim
from dexhand_gym.surfaces import surface_points

S = 0.5**0.5
CORNER = [(0, 0, 0), (0.06, 0, 0), (0, 0.06, 0), (0, 0, 0.06)]
"""A corner of a cube: a tetrahedron with three right angles."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """All sets, their meshes in a cache folder of this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return {name: load_set(name) for name in SETS}


# --- Resting poses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thing", "poses", "width"),
    [
        (
            Box(size=(0.02, 0.04, 0.06)),
            [(0.01, 0, S, 0, S), (0.02, S, 0, 0, S), (0.03, 0, 0, 0, 1)],
            0.04,  # lying flat 4, on its side 2, upright 2
        ),
        (Box(size=(0.001, 0.06, 0.06)), [(0.0005, 0, S, 0, S)], 0.06),  # a card does not stand
        (Sphere(size=0.06), [(0.03, 0, 0, 0, 1)], 0.06),
        (Cylinder(size=(0.04, 0.06)), [(0.02, 0, S, 0, S), (0.03, 0, 0, 0, 1)], 0.04),
        (Cylinder(size=(0.06, 0.001)), [(0.0005, 0, 0, 0, 1)], 0.06),  # nor does a coin
        (Cylinder(size=(0.06, 0.02)), [(0.01, 0, 0, 0, 1), (0.03, 0, S, 0, S)], 0.06),
        (Capsule(size=(0.04, 0.1)), [(0.02, 0, S, 0, S)], 0.04),
        (Ellipsoid(size=(0.06, 0.04, 0.08)), [(0.02, S, 0, 0, S)], 0.06),
    ],
    ids=lambda value: value.shape if hasattr(value, "shape") else "",
)
def test_how_a_simple_shape_lies_by_hand(thing, poses, width):
    np.testing.assert_allclose(resting_poses(thing), poses, atol=1e-12)
    assert grasp_width(thing) == pytest.approx(width)
    assert any(np.allclose(np.append(*thing.rest()), pose) for pose in poses) or thing.size[0] == 0.001


def test_how_a_tetrahedron_lies_by_hand():
    """The middle of its extents is at 3, 3, 3 cm, its centre of mass at 1.5, 1.5, 1.5. Lying on one of its equal sides
    it is 6 cm high and its middle at 3. On the large side its corner is 6 / sqrt(3) high: the middle is below ground,
    (9 - 6) / sqrt(3) from that side, on the outer side of it. A right-angled triangle is 6 / sqrt(2) wide, that of
    6 sqrt(2) edges 7.35."""
    thing = Mesh.of_vertices(CORNER)
    poses = resting_poses(thing)
    assert poses[:, 0] == pytest.approx([-0.03 / 3**0.5, 0.03, 0.03, 0.03], abs=2e-4)
    heights, widths = profiles(thing).T
    assert heights == pytest.approx([0.06 / 3**0.5, 0.06, 0.06, 0.06], abs=1e-6)
    assert widths == pytest.approx([0.06 * 1.5**0.5, 0.06 * S, 0.06 * S, 0.06 * S], abs=1e-6)
    assert grasp_width(thing) == pytest.approx(0.06 * 1.5**0.5)
    hull, center = resting.collision_hull(thing)
    np.testing.assert_allclose(center, [-0.015] * 3, atol=1e-7)
    for _, *quat in poses:  # the vertices turned as the pose says: three are on the ground
        heights = np.array([turned(quat, corner)[2] for corner in hull.vertices])
        assert (heights - heights.min() < 1e-4).sum() == 3


def test_a_mesh_lies_as_the_box_that_it_is():
    """On all six faces, and off the corner where its centre of mass is moved to on only some."""
    corners = stretched(np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]), (0.02, 0.04, 0.06))
    poses = resting_poses(Mesh.of_vertices(corners))
    assert poses[:, 0] == pytest.approx([0.01, 0.01, 0.02, 0.02, 0.03, 0.03], abs=2e-4)
    assert grasp_width(Mesh.of_vertices(corners)) == pytest.approx(0.04, abs=1e-6)
    leaning = Mesh.of_vertices(corners, center=(0.0099, 0.0, 0.0))  # upright it topples over the long edge
    assert resting_poses(leaning)[:, 0] == pytest.approx([0.01, 0.01], abs=2e-4)


def test_several_parts_lie_on_their_common_hull():
    """Two cubes of 2 cm that touch in an L's way, as parts: the hull of both is what meets the ground."""
    block = [
        trimesh.creation.box((0.02, 0.02, z)).apply_translation((x, 0, z / 2)) for x, z in ((0, 0.02), (0.02, 0.04))
    ]
    both = trimesh.util.concatenate(block)
    thing = Mesh.of_vertices(both.vertices, both.faces, parts=2)
    assert len(load_mesh(thing.file, thing.size, 2).hulls) == 2
    _, center = resting.collision_hull(thing)
    assert center == pytest.approx([0.01 * 2 / 3 - 0.01 * 1 / 3, 0, -0.02 + (0.01 + 2 * 0.02) / 3], abs=1e-3)
    assert len(resting_poses(thing)) >= 4


def test_a_center_of_mass_that_is_moved_is_refused_where_poses_are_formulas():
    with pytest.raises(ValueError, match=r"box.center = \(0.01, 0.0, 0.0\): allowed is 0 0 0"):
        resting_poses(Box(center=(0.01, 0.0, 0.0)))


def test_resting_poses_are_computed_once(monkeypatch):
    thing = Mesh.of_vertices(CORNER)
    first = resting_poses(thing)
    monkeypatch.setattr(resting, "settled", None)
    np.testing.assert_array_equal(resting_poses(thing), first)
    with pytest.raises(TypeError):
        resting_poses(Mesh.of_vertices(CORNER, size=0.05))


def test_who_waits_for_shapes_is_told_once_and_only_when_they_are_new(monkeypatch, capsys):
    monkeypatch.setattr(meshes, "PATIENCE", 1e-9)
    for told in (1, 0):
        monkeypatch.setattr(meshes, "_computed", 0.0)
        for size in (0.05, 0.06):
            resting_poses(Mesh.of_vertices(CORNER, size=size))
        assert capsys.readouterr().err.count("shapes are being computed, once; they are kept in ") == told
        meshes._load_mesh.cache_clear()


@pytest.mark.parametrize("side", [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0.6, 0, 0.8), (-2 / 3, 1 / 3, 2 / 3)])
def test_a_side_is_turned_down(side):
    quat = turned_down(np.array(side, dtype=float))
    assert np.linalg.norm(quat) == pytest.approx(1)
    np.testing.assert_allclose(turned(quat, side), (0, 0, -1), atol=1e-9)


def turned(quat, vector):
    u, w = np.array(quat[:3]), quat[3]
    return np.array(vector) + 2 * np.cross(u, np.cross(u, vector) + w * np.array(vector))


@pytest.mark.parametrize("name", SETS)
def test_what_lies_stays(sets, name):
    """Two of each family, of every pose: within 2 mm and 3 degrees for a second."""
    for thing in [thing for thing in sets[name] if int(thing.name[-2:]) in (3, 8)]:
        poses = resting_poses(thing)
        assert len(settled(thing, poses)) == len(poses) >= 1, thing.name


def test_what_stands_on_an_edge_does_not_stay():
    edge = (0.025 * 2**0.5, math.sin(math.pi / 8 + 0.1), 0, 0, math.cos(math.pi / 8 + 0.1))
    assert len(settled(Box(), np.array([edge, (0.025, 0, 0, 0, 1)]))) == 1


# --- What friction they need ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "least", "most"), [(0.09, math.tan(math.radians(20)), 0.45), (0.05, 0.0, 0.15)], ids=["long", "short"]
)
def test_the_friction_that_a_roof_needs_by_hand(length, least, most):
    """A roof 5 cm high whose sides lean by 20 degrees: a level line between them is 20 degrees off both normals, and one
    that leans is further off one of them. Its ends are opposite each other, but 9 cm are too far for a hand."""
    foot = 0.05 * math.tan(math.radians(20))
    roof = [(x, y, z) for y in (0, length) for x, z in ((-foot, 0), (foot, 0), (0, 0.05))]
    thing = Mesh.of_vertices(roof)
    on_its_foot = (resting.stable_sides(thing) @ (0, 0, -1)).argmax()
    assert least <= friction_needed(thing)[on_its_foot] <= most


def test_what_has_opposite_faces_needs_hardly_any_friction():
    corners = stretched(np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]), (0.03, 0.04, 0.05))
    assert friction_needed(Mesh.of_vertices(corners)).max() < 0.15
    assert (friction_needed(Cylinder(size=(0.04, 0.06))) == 0).all() and len(friction_needed(Box())) == 3


def test_what_no_hand_holds():
    """A cube too wide is pinched across an edge at best, where both normals are 45 degrees off; there is no room for
    fingers beside a plate of 5 mm."""
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    assert 1.0 <= friction_needed(Mesh.of_vertices(stretched(corners, (0.3, 0.3, 0.3)))).min() < 1.3
    plate = Mesh.of_vertices(stretched(corners, (0.05, 0.05, 0.005)))
    flat = np.abs(resting.stable_sides(plate)[:, 2]) > 0.9
    assert flat.sum() == 2 and np.isinf(friction_needed(plate)[flat]).all()


# --- Sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_every_object_fits_a_hand(sets, name):
    things = sets[name]
    assert len({thing.name for thing in things}) == len(things)
    counts = {kind: sum(family(thing) == kind for thing in things) for kind in SETS[name]}
    assert counts == SETS[name]
    for thing in things:
        check(thing)
        thing.validate()
        assert 0.03 - 1e-6 <= max(thing.extents) <= 0.09 + 1e-6, thing.name
        assert min(thing.extents) >= 0.02 - 1e-6 and profiles(thing)[:, 0].min() >= 0.02, thing.name
        assert grasp_width(thing) <= 0.07, thing.name
        assert 0.02 <= thing.mass <= 0.4 and 0.5 <= thing.friction <= 1.5, thing.name
        assert DENSITY[0] * 0.99 <= thing.mass / volume(thing) <= DENSITY[1] * 1.01, thing.name
        assert not any(thing.center) and thing.parts == 1


def test_a_set_is_of_all_sizes(sets):
    for name, things in sets.items():
        for kind in SETS[name]:
            largest = np.array([max(thing.extents) for thing in things if family(thing) == kind])
            assert largest.min() < 0.036 and largest.max() > (0.065 if kind == "sphere" else 0.08), (name, kind)


def test_a_set_is_the_same_in_every_process(tmp_path):
    """And this file loads no engine, nor torch, before a set is asked for."""
    program = (
        "import sys; from dexhand_gym.object_sets import load_set; assert not {'torch', 'mujoco'} & set(sys.modules);"
        "print([(x.name, x.size, round(x.mass, 3), x.friction) for x in load_set('held_out')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    expected = [(x.name, x.size, round(x.mass, 3), x.friction) for x in load_set("held_out")]
    assert run.stdout.strip() == repr(expected)


def test_no_object_is_in_both_sets(sets):
    """Sizes are multiples of 0.1 mm, so two spheres may agree; their masses do not."""
    train, held_out = ({(x.shape, x.size, x.file, x.mass) for x in sets[name]} for name in ("train", "held_out"))
    assert not train & held_out
    assert {family(x) for x in sets["held_out"]} - {family(x) for x in sets["train"]} == {"prism", "frustum"}
    files = {name: {x.file for x in sets[name] if x.file} for name in sets}
    assert len(files["train"]) == 96 and len(files["held_out"]) == 48 and not files["train"] & files["held_out"]


def test_a_set_that_is_changed_is_not_changed_for_others():
    load_set("train")[0].mass = 7.0
    assert load_set("train")[0].mass < 1


def test_volumes_by_hand():
    assert volume(Box(size=(0.1, 0.2, 0.3))) == pytest.approx(0.006)
    assert volume(Sphere(size=0.2)) == pytest.approx(4 / 3 * math.pi * 1e-3)
    assert volume(Cylinder(size=(0.2, 0.5))) == pytest.approx(math.pi * 5e-3)
    assert volume(Capsule(size=(0.2, 0.7))) == pytest.approx(math.pi * 5e-3 + 4 / 3 * math.pi * 1e-3)
    assert volume(Capsule(size=(0.2, 0.2))) == pytest.approx(volume(Sphere(size=0.2)))
    assert volume(Mesh.of_vertices(CORNER)) == pytest.approx(0.06**3 / 6, rel=1e-5)


def test_a_superquadric_is_a_surface_of_its_formula():
    class Fixed:
        def uniform(self, *_):
            return 1.0, 1.0

    assert np.linalg.norm(SOLIDS["superquadric"](Fixed()), axis=1) == pytest.approx(1), "exponents of 1: a ball"
    assert np.linalg.norm(directions(100), axis=1) == pytest.approx(1)
    assert np.abs(directions(100).mean(0)).max() < 0.01


def test_one_family_of_a_set(sets):
    assert load_set("held_out:prism") == tuple(thing for thing in sets["held_out"] if family(thing) == "prism")
    for name, near in (("train:spher", "did you mean 'sphere'"), ("train:prism", "Allowed: box"), ("train:", "''")):
        with pytest.raises(ValueError, match=near):
            load_set(name)
    for name in ("train:box", "train,wedges"):
        with pytest.raises(ValueError, match=f"task.mesh_unit = 0.001: allowed is 1 for the set {name!r}"):
            load_set(name, scale=0.001)


def test_several_sets(sets, folder):
    assert load_set("wedges,train:sphere") == (*sets["wedges"], *load_set("train:sphere"))
    trimesh.creation.box((20, 40, 60)).export(folder / "mine.stl")
    *balls, mine = load_set(f"train:sphere,{folder}", scale=0.001)
    assert len(balls) == 48 and mine.name == "mine" and mine.extents == pytest.approx((0.02, 0.04, 0.06), rel=1e-5)
    comma = folder / "a,b"
    comma.mkdir()
    trimesh.creation.box((0.02, 0.04, 0.06)).export(comma / "mine.stl")
    assert [thing.name for thing in load_set(str(comma))] == ["mine"]
    for names, message in (
        ("train,held_out", "task.objects = 'train,held_out': there are two of the name 'box_00', allowed are sets"),
        ("train,trian", "task.objects: unknown name 'trian'; did you mean 'train'"),
        ("train,", "task.objects: unknown name ''"),
    ):
        with pytest.raises(ValueError, match=message):
            load_set(names)


def test_a_wedge_can_be_held_by_two_fingers(sets):
    """So can what does not taper, with less friction."""
    needed = [friction_needed(thing).max() for thing in sets["wedges"]]
    assert max(needed) <= 0.5 and np.median(needed) > 0.25
    assert np.median([friction_needed(x).max() for x in sets["train"] if family(x) == "superquadric"]) < 0.15


# --- Folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "things").mkdir()
    return tmp_path / "things"


def test_a_folder_of_meshes(folder):
    trimesh.creation.box((20, 40, 60)).export(folder / "box.stl")
    trimesh.creation.cylinder(10, 50).export(folder / "025 mug-a.ply")
    (folder / "readme.txt").write_text("no mesh")
    (folder / "._box.stl").write_text("what a Mac puts beside it")
    things = load_set(str(folder), scale=0.001)
    assert [thing.name for thing in things] == ["mesh_025_mug_a", "box"]
    assert things[1].extents == pytest.approx((0.02, 0.04, 0.06), rel=1e-5)
    assert [family(thing) for thing in things] == ["mesh_025_mug_a", "box"]
    assert len(resting_poses(things[1])) == 6
    for thing in things:
        check(thing)
        thing.validate()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.obj", "", "mesh '.*a.obj'"),
        ("a.obj", "v 0 0 0\nv 1 0 1\nv 0 1 1\nv 1 1 2\nf 1 2 3\nf 2 3 4\n", "it is flat, allowed is a solid"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "it has 3 vertices, allowed are 4 or more"),
        ("a.ply", "no mesh", "not read"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n", "it has no faces, or is damaged"),
        ("a.stl", "solid a\nfacet normal 0 0", "a.stl': not read, "),
        ("a.txt", "", "the folder has no mesh, allowed are .obj, .stl, .ply files"),
        (
            "a.obj",
            "v 0 0 0\nv 85 0 0\nv 0 40 0\nv 0 0 50\nf 1 2 3\nf 1 2 4\n",
            r"mesh 'a.obj' spans 85 m, allowed is 0.001 to 1 m; is it in millimetres\? Then its unit \(task.mesh_unit, scale\) is 0.001",
        ),
        (
            "a.obj",
            "v 0 0 0\nv 8.5e-5 0 0\nv 0 4e-5 0\nv 0 0 5e-5\nf 1 2 3\nf 1 2 4\n",
            r"mesh 'a.obj' spans 8.5e-05 m, allowed is 0.001 to 1 m; its unit \(task.mesh_unit, scale\) is larger",
        ),
    ],
    ids=["empty", "flat", "three", "no ply", "points", "cut", "no mesh", "millimetres", "tiny"],
)
def test_a_folder_that_is_none_is_one_line(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_set(str(folder))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"task.objects = {str(folder)!r}: ")


@pytest.mark.parametrize("name", ["trian", "nowhere/at/all", "", "a\0b", "x" * 5000])
def test_a_name_that_is_none_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^task.objects") as caught:
        load_set(name)
    assert "\n" not in str(caught.value)
    assert "train, held_out, wedges, a folder of .obj, .stl, .ply files, or several" in str(caught.value)
    assert ("did you mean 'train'" in str(caught.value)) == (name == "trian")


def test_names_and_scales_that_do_not_go_together(folder):
    for file in ("cup.obj", "cup.stl"):
        trimesh.creation.box((0.02, 0.04, 0.06)).export(folder / file)
    with pytest.raises(ValueError, match="are both 'cup', allowed are names that differ"):
        load_set(str(folder))
    with pytest.raises(ValueError, match="task.mesh_unit = 0.5: allowed is 1 for the set 'train'"):
        load_set("train", scale=0.5)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="scale = .*: allowed is a number more than 0"):
            load_set(str(folder), scale)


# --- Points on the surface -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_points_are_on_the_surface_and_spread(sets, name):
    for thing in [thing for thing in sets[name] if int(thing.name[-2:]) < 2]:
        points = surface_points(thing)
        assert points.shape == (32, 3)
        np.testing.assert_array_equal(points, surface_points(dataclasses.replace(thing)))
        np.testing.assert_array_equal(surface_points(thing, 8), points[:8])
        assert (np.abs(points) <= np.array(thing.extents) / 2 + 1e-6).all()
        for share, out in ((0.99, False), (1.01, True)):  # just inside, and just outside
            assert ((away(thing, points * share) > 0) == out).all(), thing.name
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(32)
        assert apart.min() > 0.15 * min(thing.extents), thing.name
        reach = np.linalg.norm(surface_points(thing, 300)[:, None] - points[None], axis=-1).min(1)
        assert reach.max() <= 1.05 * apart.min(), f"{thing.name}: no gap wider than the points are apart"


def away(thing, points):
    """Distances to the surface, 0 inside."""
    if thing.shape == "mesh":
        return distance_to_hull(points, load_mesh(thing.file, thing.size).hulls[0])
    half = torch.tensor(thing.extents, dtype=torch.float64).view(1, 1, 3) / 2
    return distance(thing.shape, torch.from_numpy(points)[None], half)[0].numpy()


def test_points_of_two_parts_are_on_the_outside():
    """Two cubes of 2 cm, 4 cm apart in the middle: no point is within a cube."""
    block = [trimesh.creation.box((0.02, 0.02, 0.02)).apply_translation((x, 0, 0)) for x in (0.0, 0.04)]
    both = trimesh.util.concatenate(block)
    thing = Mesh.of_vertices(both.vertices, both.faces, parts=2)
    points = surface_points(thing, 16)
    off = np.abs(np.abs(points) - np.array([0.02, 0, 0]))
    assert off.max(1) == pytest.approx(0.01, abs=1e-3)


def test_a_pushed_ball_of_the_set_stops():
    """At 5 cm/s; without friction against rolling it would be 5 cm away after a second, and as fast."""
    ball = next(thing for thing in load_set("train") if family(thing) == "sphere" and thing.size > 0.055)
    sim = make_sim(Scene(objects=(dataclasses.replace(ball, name="ball"),)), 1, SimConfig(), 1, "mujoco", "cpu")
    radius = ball.size / 2
    sim.root_state[:, 1] = torch.tensor([1.0, 0, radius, 0, 0, 0, 1, 0.05, 0, 0, 0, 0.05 / radius, 0])
    sim.write_state(torch.ones(1, dtype=torch.bool))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(75):
        sim.step(hold)
    assert 0.005 < sim.root_state[0, 1, 0] - 1.0 < 0.03
    assert sim.root_state[0, 1, 7] < 0.005
