"""Kernels of mjwarp.py: between MuJoCo Warp's arrays and Isaac Gym's tensors.

`row` maps the worlds of a batch to the rows of the tensors; a negative entry means that a world has none.
"""

import warp as wp


@wp.kernel
def read_dofs(qpos: wp.array2d[float], qvel: wp.array2d[float], dof_state: wp.array3d[float]):
    world, dof = wp.tid()
    dof_state[world, dof, 0] = qpos[world, dof]
    dof_state[world, dof, 1] = qvel[world, dof]


@wp.kernel
def read_bodies(
    row: wp.array[int],  # where world i of this batch goes; negative: nowhere
    xpos: wp.array2d[wp.vec3],
    xquat: wp.array2d[wp.quat],
    cvel: wp.array2d[wp.spatial_vector],
    com: wp.array2d[wp.vec3],
    tree_root: wp.array[int],
    state: wp.array3d[float],
):
    world, i = wp.tid()
    target = row[world]
    if target < 0:
        return
    body = i + 1  # 0 is the world
    x, q, v = (
        xpos[world, body],
        xquat[world, body],
        cvel[world, body],
    )  # q is w x y z here; v of the tree's centre of mass
    angular = wp.spatial_top(v)
    linear = wp.spatial_bottom(v) + wp.cross(angular, x - com[world, tree_root[body]])
    for k in range(3):
        state[target, i, k] = x[k]
        state[target, i, 3 + k] = q[k + 1]
        state[target, i, 7 + k] = linear[k]
        state[target, i, 10 + k] = angular[k]
    state[target, i, 6] = q[0]


@wp.kernel
def zero_forces(row: wp.array[int], force: wp.array3d[float]):
    world, body = wp.tid()
    if row[world] >= 0:
        for k in range(3):
            force[row[world], body, k] = 0.0


@wp.kernel
def sum_forces(
    row: wp.array[int],
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
    target = row[contact_world[contact]]
    if target < 0:
        return
    pushed, pushing = geom_body[contact_geom[contact][1]] - 1, geom_body[contact_geom[contact][0]] - 1
    f = wp.spatial_top(contact_force[contact])
    for k in range(3):
        if pushed >= 0:
            wp.atomic_add(force, target, pushed, k, f[k])
        if pushing >= 0:
            wp.atomic_add(force, target, pushing, k, -f[k])


@wp.kernel
def pick_rows(
    pending: wp.array[bool],
    count: wp.array[int],
    row: wp.array[int],
):
    """Gives the next pending worlds a place in the small batch; row[place] is the world, -1 where none is left."""
    world = wp.tid()
    if pending[world]:
        place = wp.atomic_add(count, 0, 1)
        if place < row.shape[0]:
            row[place] = world
            pending[world] = False


@wp.kernel
def load_rows(
    row: wp.array[int],
    dof_state: wp.array3d[float],
    root_state: wp.array3d[float],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    ctrl: wp.array2d[float],
    warmstart: wp.array2d[float],
):
    place = wp.tid()
    world = wp.max(row[place], 0)
    dofs = dof_state.shape[1]
    for i in range(dofs):
        qpos[place, i] = dof_state[world, i, 0]
        ctrl[place, i] = dof_state[world, i, 0]
        qvel[place, i] = dof_state[world, i, 1]
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
            qpos[place, p + k] = root_state[world, actor, k]
            qpos[place, p + 4 + k] = quat[k]
            qvel[place, v + k] = root_state[world, actor, 7 + k]
            qvel[place, v + 3 + k] = spin[k]
        qpos[place, p + 3] = quat[3]
    for i in range(qvel.shape[1]):
        warmstart[place, i] = 0.0


@wp.kernel
def any_waiting(pending: wp.array[bool], more: wp.array[int]):
    if pending[wp.tid()]:
        more[0] = 1


@wp.kernel
def any_left(count: wp.array[int], places: int, more: wp.array[int]):
    more[0] = 0
    if count[0] > places:
        more[0] = 1


@wp.kernel
def store_rows(row: wp.array[int], source: wp.array2d[float], target: wp.array2d[float]):
    place, i = wp.tid()
    if row[place] >= 0:
        target[row[place], i] = source[place, i]


@wp.kernel
def read_actors(row: wp.array[int], bodies: wp.array3d[float], body: wp.array[int], root_state: wp.array3d[float]):
    world, actor = wp.tid()
    if row[world] >= 0:
        for k in range(13):
            root_state[row[world], actor, k] = bodies[row[world], body[actor], k]


@wp.kernel
def find_nonfinite(row: wp.array[int], qpos: wp.array2d[float], qvel: wp.array2d[float], nonfinite: wp.array[bool]):
    world = wp.tid()
    if row[world] >= 0:
        total = float(0.0)  # noqa: UP018  (a variable to Warp, where 0.0 is a constant)
        for i in range(qpos.shape[1]):
            total += qpos[world, i]
        for i in range(qvel.shape[1]):
            total += qvel[world, i]
        nonfinite[row[world]] = not wp.isfinite(total)
