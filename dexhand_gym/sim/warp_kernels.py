"""Kernels of mjwarp.py, which copy between MuJoCo Warp's arrays and Isaac Gym's tensors."""

import warp as wp

from dexhand_gym.sim.base import MOST

FREE, SLIDE, HINGE = 0, 2, 3  # MuJoCo's types of joints


@wp.kernel
def read_dofs(qpos: wp.array2d[float], qvel: wp.array2d[float], dof_state: wp.array3d[float]):
    world, dof = wp.tid()
    dof_state[world, dof, 0] = qpos[world, dof]
    dof_state[world, dof, 1] = qvel[world, dof]


@wp.kernel
def read_bodies(
    xpos: wp.array2d[wp.vec3],
    xquat: wp.array2d[wp.quat],
    cvel: wp.array2d[wp.spatial_vector],
    com: wp.array2d[wp.vec3],
    tree_root: wp.array[int],
    state: wp.array3d[float],
    force: wp.array3d[float],
):
    world, i = wp.tid()
    body = i + 1  # 0 is the world
    x, q, v = xpos[world, body], xquat[world, body], cvel[world, body]  # q: w x y z; v: of the tree's centre of mass
    angular = wp.spatial_top(v)
    linear = wp.spatial_bottom(v) + wp.cross(angular, x - com[world, tree_root[body]])
    for k in range(3):
        state[world, i, k] = x[k]
        state[world, i, 3 + k] = q[k + 1]
        state[world, i, 7 + k] = linear[k]
        state[world, i, 10 + k] = angular[k]
        force[world, i, k] = 0.0
    state[world, i, 6] = q[0]


@wp.kernel
def sum_forces(
    contacts: wp.array[int],  # how many there are
    contact_world: wp.array[int],
    contact_geom: wp.array[wp.vec2i],
    contact_force: wp.array[wp.spatial_vector],
    geom_body: wp.array[int],
    force: wp.array3d[float],
):
    contact = wp.tid()
    if contact >= contacts[0]:
        return
    world = contact_world[contact]
    pushed, pushing = geom_body[contact_geom[contact][1]] - 1, geom_body[contact_geom[contact][0]] - 1
    f = wp.spatial_top(contact_force[contact])
    for k in range(3):
        if pushed >= 0:
            wp.atomic_add(force, world, pushed, k, f[k])
        if pushing >= 0:
            wp.atomic_add(force, world, pushing, k, -f[k])


@wp.kernel
def load_rows(
    waiting: wp.array[bool],
    dof_state: wp.array3d[float],
    root_state: wp.array3d[float],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    ctrl: wp.array2d[float],
    warmstart: wp.array2d[float],
):
    world = wp.tid()
    if not waiting[world]:
        return
    dofs = dof_state.shape[1]
    for i in range(dofs):
        qpos[world, i] = dof_state[world, i, 0]
        ctrl[world, i] = dof_state[world, i, 0]
        qvel[world, i] = dof_state[world, i, 1]
    for actor in range(1, root_state.shape[1]):
        p, v = dofs + 7 * (actor - 1), dofs + 6 * (actor - 1)
        quat = wp.quat(
            root_state[world, actor, 3],
            root_state[world, actor, 4],
            root_state[world, actor, 5],
            root_state[world, actor, 6],
        )
        angular = wp.vec3(root_state[world, actor, 10], root_state[world, actor, 11], root_state[world, actor, 12])
        spin = wp.quat_rotate_inv(quat, angular)  # a free joint's angular velocity is in body axes
        for k in range(3):
            qpos[world, p + k] = root_state[world, actor, k]
            qpos[world, p + 4 + k] = quat[k]
            qvel[world, v + k] = root_state[world, actor, 7 + k]
            qvel[world, v + 3 + k] = spin[k]
        qpos[world, p + 3] = quat[3]
    for i in range(qvel.shape[1]):
        warmstart[world, i] = 0.0


@wp.kernel
def place_bodies(
    waiting: wp.array[bool],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    parent: wp.array[int],
    offset: wp.array[wp.transform],  # of a body in its parent
    joint: wp.array[wp.vec3i],  # of a body: its type (-1: none), where its position and its velocity stand
    axis: wp.array[wp.vec3],
    state: wp.array3d[float],
    force: wp.array3d[float],
):
    world, body = wp.tid()
    if not waiting[world]:
        return
    # Pose and velocity of the body in its own frame, then in its parent's, and so on up to the world.
    x, q = wp.vec3(0.0), wp.quat_identity()
    v, w = wp.vec3(0.0), wp.vec3(0.0)
    link = int(body)
    while link >= 0:
        kind, a, d = joint[link][0], joint[link][1], joint[link][2]
        origin, turn = wp.transform_get_translation(offset[link]), wp.transform_get_rotation(offset[link])
        linear, angular = wp.vec3(0.0), wp.vec3(0.0)
        direction = wp.quat_rotate(turn, axis[link])
        if kind == wp.static(SLIDE):
            origin += direction * qpos[world, a]
            linear = direction * qvel[world, d]
        elif kind == wp.static(HINGE):
            turn = turn * wp.quat_from_axis_angle(axis[link], qpos[world, a])
            angular = direction * qvel[world, d]
        elif kind == wp.static(FREE):  # the angular velocity of a free joint is in body axes
            origin = wp.vec3(qpos[world, a], qpos[world, a + 1], qpos[world, a + 2])
            turn = wp.quat(qpos[world, a + 4], qpos[world, a + 5], qpos[world, a + 6], qpos[world, a + 3])
            linear = wp.vec3(qvel[world, d], qvel[world, d + 1], qvel[world, d + 2])
            angular = wp.quat_rotate(turn, wp.vec3(qvel[world, d + 3], qvel[world, d + 4], qvel[world, d + 5]))
        arm = wp.quat_rotate(turn, x)
        v = linear + wp.cross(angular, arm) + wp.quat_rotate(turn, v)
        w = angular + wp.quat_rotate(turn, w)
        x = origin + arm
        q = turn * q
        link = parent[link]
    for k in range(3):
        state[world, body, k] = x[k]
        state[world, body, 3 + k] = q[k]
        state[world, body, 7 + k] = v[k]
        state[world, body, 10 + k] = w[k]
        force[world, body, k] = 0.0
    state[world, body, 6] = q[3]


@wp.kernel
def read_actors(wanted: wp.array[bool], bodies: wp.array3d[float], body: wp.array[int], root_state: wp.array3d[float]):
    world, actor = wp.tid()
    if wanted[world]:
        for k in range(13):
            root_state[world, actor, k] = bodies[world, body[actor], k]


@wp.kernel
def find_nonfinite(wanted: wp.array[bool], qpos: wp.array2d[float], qvel: wp.array2d[float], nonfinite: wp.array[bool]):
    world = wp.tid()
    if wanted[world]:
        total = float(0.0)  # noqa: UP018  (a variable to Warp, where 0.0 is a constant)
        for i in range(qpos.shape[1]):
            total += qpos[world, i]
        for i in range(qvel.shape[1]):
            total += qvel[world, i]
        nonfinite[world] = not (wp.abs(total) < wp.static(MOST))
