"""Watching an environment in the browser, on a page that viser serves."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import io
import logging
import math
from dataclasses import replace
from functools import partial
from typing import Any, Dict, List, Sequence, Tuple

import mujoco
import numpy as np
import trimesh
import viser

from dexhand_gym.objects import AnyOf
from dexhand_gym.sim.bodies import built_apart
from dexhand_gym.sim.mjcf import build_model
from dexhand_gym.watch.gate import is_public, listen, open_server
from dexhand_gym.watch.render import away
from dexhand_gym.watch.viewer import FORCE_COLOR, SPEEDS, Frame, Viewer

log = logging.getLogger(__name__)

STYLE = "font-size: 0.85em; line-height: 1.4; padding: 0 0.8em; font-variant-numeric: tabular-nums"


class Page(Viewer):
    """A page for the browser, served by viser."""

    def __init__(self, env: Any, speed: str):
        super().__init__(env, speed)
        host, port = env.cfg.env.render_host, env.cfg.env.render_port
        listener = listen(host, port)
        if is_public(listener):
            log.warning("env.render_host = '%s': anybody who reaches this machine can watch and pause", host)
        self._server = open_server(listener, host, "dexhand_gym")
        self.where = f"http://{f'[{host}]' if ':' in host else host}:{self._server.get_port()}"
        self._server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        self._bodies: List[Tuple[Any, List[int]]] = []
        self._any = [thing for thing in env.sim.scene.free if isinstance(thing, AnyOf)]
        self._choices: Dict[Tuple[int, int], Any] = {}  # (which AnyOf, which choice) -> its handle, once it was there
        self._nominal = np.array([thing.extents for thing in env.sim.scene.free]).reshape(-1, 3) / 2
        self._ghosts = len(env.sim.scene.ghosts)
        self._is_built = False

    def watched(self) -> bool:
        """See Viewer.watched."""
        return len(self._server.get_clients()) > 0

    def is_over(self) -> bool:
        """See Viewer.is_over: somebody may come again."""
        return False

    def draw(self, frame: Frame) -> None:
        """See Viewer.draw."""
        if not self._is_built:  # now that somebody looks
            self._is_built = True
            self._add_controls()
            self._add_scene(frame)
        with self._server.atomic():
            for handle, bodies in self._bodies:
                handle.batched_wxyzs, handle.batched_positions = poses_of(frame, bodies)
                handle.batched_scales = scales_of(frame, bodies, self._nominal, len(self._any), self._ghosts)
            self._draw_choices(frame)
            self._ring.position = frame.places[frame.picked - frame.rows.start]
            self._ring.visible = len(frame.rows) > 1
            arrows = self.arrows(frame) if self._show_forces.value else np.zeros((0, 2, 3))
            self._arrows.visible = len(arrows) > 0
            if len(arrows):
                self._arrows.points = arrows
            self._play.label = "Play" if self.paused else "Pause"
            self._play.icon = viser.Icon.PLAYER_PLAY if self.paused else viser.Icon.PLAYER_PAUSE
            self._status.content = self._describe(frame)
            self._table.content = self._tabulate(frame.terms)

    def _draw_choices(self, frame: Frame) -> None:
        """Shows the choice that each AnyOf is in each environment, and hides the others there."""
        for i, thing in enumerate(self._any):
            which = frame.coordinates[:, i - len(self._any)].astype(int)
            bodies = [self.env.sim.body_names.index(thing.name)]
            quats, positions = poses_of(frame, bodies)
            for choice in {*which.tolist(), *(c for k, c in self._choices if k == i)}:
                scales = np.repeat((which == choice)[:, None], 3, 1).astype(np.float32)
                if (i, choice) not in self._choices:
                    mesh = mesh_of_choice(thing, choice)
                    handle = self._server.scene.add_batched_meshes_trimesh(
                        f"/choices/{i}/{choice}", mesh, quats, positions, batched_scales=scales, lod="off"
                    )
                    handle.on_click(partial(self._on_click, 1))
                    self._choices[i, choice] = handle
                handle = self._choices[i, choice]
                handle.visible = bool(scales.any())
                if handle.visible:
                    handle.batched_wxyzs, handle.batched_positions, handle.batched_scales = quats, positions, scales

    def _describe(self, frame: Frame) -> str:
        state = "paused" if self.paused else f"playing, {self.speed}"
        success = f"{frame.successes} of {frame.episodes} episodes"
        if frame.episodes:
            success += f" ({frame.successes / frame.episodes:.0%})"
        rows = {"state": state, "step": self.steps}
        told = {"success": success, f"environment {frame.picked}": f"{frame.time:.2f} s into its episode"}
        rows.update(self.words or told)
        cells = "".join(
            f"<tr><td>{name}</td><td id='{name.split()[0]}'>{text}</td></tr>" for name, text in rows.items()
        )
        return f"<div style='{STYLE}'><table style='width:100%'>{cells}</table></div>"

    def _tabulate(self, terms: np.ndarray) -> str:
        """Reward terms of the picked environment that have a weight."""
        rows = [
            (name, raw, raw * weight) for (name, weight), raw in zip(self.env.reward_weights.items(), terms) if weight
        ]
        rows.append(("reward", None, sum(weighted for *_, weighted in rows)))
        cells = "".join(
            f"<tr><td>{name.replace('_', ' ')}</td><td align=right>{'' if raw is None else f'{raw:.3f}'}</td>"
            f"<td align=right>{round(weighted, 3) + 0.0:.3f}</td></tr>"
            for name, raw, weighted in rows
        )
        head = "<tr><th align=left>term</th><th align=right>raw</th><th align=right>weighted</th></tr>"
        return f"<div style='{STYLE}'><table id='terms' style='width:100%'>{head}{cells}</table></div>"

    def _add_controls(self) -> None:
        gui = self._server.gui
        self._status = gui.add_html("")
        self._play = gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE)
        step = gui.add_button("Step", icon=viser.Icon.PLAYER_TRACK_NEXT, hint="One control step, then pause")
        speed = gui.add_dropdown("Speed", list(SPEEDS), initial_value=self.speed)
        picked = gui.add_number("Environment", self.picked, min=0, max=self.env.num_envs - 1, step=1)
        most = self.most_shown
        shown = gui.add_slider("Shown", min=1, max=max(most, 2), step=1, initial_value=self.shown, disabled=most == 1)
        felt, paid = self.env.cfg.env.backend != "none", any(self.env.reward_weights.values())
        self._show_forces = gui.add_checkbox("Contact forces", True, visible=felt)
        reload = gui.add_button("Newer policy", icon=viser.Icon.REFRESH, visible=self.on_reload is not None)
        with gui.add_folder("Reward", visible=paid):
            self._table = gui.add_html("")

        @step.on_click
        def _(_: Any) -> None:
            self.paused = True
            self.steps_to_go += 1

        self._play.on_click(lambda _: setattr(self, "paused", not self.paused))
        for name, control in (("speed", speed), ("picked", picked), ("shown", shown)):
            control.on_update(partial(self._on_update, name))
        self._pick = lambda row: setattr(picked, "value", row)
        reload.on_click(lambda _: setattr(self, "reload_wanted", True))
        self._show_forces.on_update(lambda _: setattr(self, "_seen", None))

    async def _on_update(self, name: str, event: Any) -> None:
        """Takes the value of a control, and shows the accepted value there. A coroutine, so that values are handled in
        the order in which they arrive, on viser's own thread."""
        setattr(self, name, event.target.value)
        event.target.value = getattr(self, name)

    def _add_scene(self, frame: Frame) -> None:
        scene, camera = self._server.scene, self._server.initial_camera
        cfg = self.env.cfg.env.camera
        distance = 1.6 * away(cfg, self.env.hand) + 0.7 * (math.ceil(math.sqrt(len(frame.rows))) - 1)
        azimuth, elevation = math.radians(cfg.azimuth), math.radians(cfg.elevation)
        level = np.array((math.cos(azimuth), math.sin(azimuth), 0.0))
        forward = math.cos(elevation) * level + (0.0, 0.0, math.sin(elevation))
        aside = 0.13 * distance * np.array((level[1], -level[0], 0.0))  # the panel covers the right
        camera.look_at = aside + (0.0, 0.0, 0.1)
        camera.position = camera.look_at - distance * forward
        camera.fov = math.radians(45)
        scene.configure_environment_map("studio", environment_intensity=0.3)
        scene.add_grid(
            "/ground",
            infinite_grid=True,
            cell_size=0.1,
            section_size=0.5,
            cell_color=(176, 184, 192),
            section_color=(150, 160, 170),
            plane_color=(214, 220, 226),
            plane_opacity=1.0,
            shadow_opacity=0.3,
            fade_distance=12.0,
        )
        ring = trimesh.creation.annulus(0.2, 0.206, 0.002)
        self._ring = scene.add_mesh_simple(
            "/picked", ring.vertices, ring.faces, color=(240, 110, 40), cast_shadow=False
        )
        self._arrows = scene.add_arrows(
            "/forces",
            np.zeros((1, 2, 3)),
            FORCE_COLOR,
            shaft_radius=0.003,
            head_radius=0.007,
            head_length=0.012,
            visible=False,
        )
        model = build_model(self.env.sim.scene, self.env.cfg.sim, visuals=True)
        for i, (mesh, bodies) in enumerate(meshes(model, [thing.name for thing in self._any])):
            handle = scene.add_batched_meshes_trimesh(
                f"/bodies/{i}",
                mesh,
                *poses_of(frame, bodies),
                batched_scales=scales_of(frame, bodies, self._nominal, len(self._any), self._ghosts),
                lod="off",
            )
            self._bodies.append((handle, bodies))
            handle.on_click(partial(self._on_click, len(bodies)))

    def _on_click(self, bodies: int, event: Any) -> None:
        """Picks the environment of a clicked mesh, which stands for this many bodies of each environment."""
        row = (event.instance_index or 0) // bodies
        if 0 <= row < self.shown:
            self._pick(self.picked // self.shown * self.shown + row)

    def close(self) -> None:
        """See Viewer.close."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()


def poses_of(frame: Frame, bodies: List[int]) -> Tuple[np.ndarray, np.ndarray]:
    """Quaternions wxyz [k * bodies, 4] and positions [k * bodies, 3] in the page's world."""
    poses = frame.poses[:, bodies]
    positions = poses[..., :3] + frame.places[:, None]
    return np.roll(poses[..., 3:], 1, -1).reshape(-1, 4), positions.reshape(-1, 3)


def scales_of(frame: Frame, bodies: List[int], nominal: np.ndarray, choices: int = 0, ghosts: int = 0) -> np.ndarray:
    """Sizes of bodies [k * bodies, 3] relative to the model's, in which the objects that move, the last bodies before the
    `ghosts`, have the half extents `nominal` [objects, 3], m; `choices`: how many of them are AnyOf."""
    k, count, last = frame.poses.shape[0], len(nominal), frame.poses.shape[1] - ghosts
    scales = np.ones((k, frame.poses.shape[1], 3), np.float32)
    if count:
        first = frame.coordinates.shape[1] - 3 * count - choices
        scales[:, last - count : last] = frame.coordinates[:, first : first + 3 * count].reshape(k, count, 3) / nominal
    return scales[:, bodies].reshape(-1, 3)


def meshes(model: mujoco.MjModel, without: Sequence[str] = ()) -> List[Tuple[trimesh.Trimesh, List[int]]]:
    """The visible meshes: one for each body (but those `without`) and material, in the body's frame. Bodies that look
    the same share one. Bodies are numbered as in the simulator's tensors, without the world."""
    left_out = {0, *(model.body(name).id for name in without)}
    parts: Dict[Tuple[int, int], List[int]] = {}
    for geom, (body, material, group) in enumerate(zip(model.geom_bodyid, model.geom_matid, model.geom_group)):
        if body not in left_out and group < 3:
            parts.setdefault((body, material if material >= 0 else -1 - geom), []).append(geom)
    shared: Dict[Any, Tuple[List[int], List[int]]] = {}
    for (body, material), geoms in parts.items():
        shape = np.c_[model.geom_type, model.geom_dataid, model.geom_size, model.geom_pos, model.geom_quat][
            geoms
        ].round(6)
        shared.setdefault((material, shape.tobytes()), (geoms, []))[1].append(body - 1)
    return [(merge(model, geoms, material), bodies) for (material, _), (geoms, bodies) in shared.items()]


def mesh_of_choice(thing: AnyOf, choice: int) -> trimesh.Trimesh:
    """What an object looks like as one of its choices."""
    model, _ = built_apart(replace(thing, of=(thing.of[choice],)))
    return merge(model, [0], -1)


def mesh_of(model: mujoco.MjModel, index: int) -> trimesh.Trimesh:
    """One of the model's meshes."""
    vertices = model.mesh_vert[model.mesh_vertadr[index] :][: model.mesh_vertnum[index]]
    faces = model.mesh_face[model.mesh_faceadr[index] :][: model.mesh_facenum[index]]
    return trimesh.Trimesh(vertices, faces, process=False)


def merge(model: mujoco.MjModel, geoms: List[int], material: int) -> trimesh.Trimesh:
    """Geoms as one mesh."""
    shapes = {
        int(mujoco.mjtGeom.mjGEOM_SPHERE): lambda size: trimesh.creation.icosphere(2, size[0]),
        int(mujoco.mjtGeom.mjGEOM_CAPSULE): lambda size: trimesh.creation.capsule(2 * size[1], size[0], count=[20, 20]),
        int(mujoco.mjtGeom.mjGEOM_CYLINDER): lambda size: trimesh.creation.cylinder(size[0], 2 * size[1], 24),
        int(mujoco.mjtGeom.mjGEOM_BOX): lambda size: trimesh.creation.box(2 * size),
        int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): lambda size: trimesh.creation.icosphere(2).apply_scale(size),
    }
    merged = []
    for geom in geoms:
        shape = shapes.get(int(model.geom_type[geom]))
        mesh = shape(model.geom_size[geom]) if shape else mesh_of(model, int(model.geom_dataid[geom]))
        transform = trimesh.transformations.quaternion_matrix(model.geom_quat[geom])
        transform[:3, 3] = model.geom_pos[geom]
        merged.append((mesh.apply_translation(-mesh.bounds.mean(0)) if shape else mesh).apply_transform(transform))
    mesh = trimesh.util.concatenate(merged).smooth_shaded
    look = model.geom_rgba[geoms[0]], 0.0, 0.6
    if material >= 0:
        look = model.mat_rgba[material], model.mat_metallic[material], model.mat_roughness[material]
    color, metallic, roughness = look
    color = np.append(color[:3] ** 2.2, color[3])  # glTF's factors are linear
    surface = trimesh.visual.material.PBRMaterial(
        baseColorFactor=color,
        metallicFactor=metallic,
        roughnessFactor=roughness,
        alphaMode="OPAQUE" if color[3] == 1 else "BLEND",
    )
    mesh.visual = trimesh.visual.TextureVisuals(material=surface)
    return mesh
