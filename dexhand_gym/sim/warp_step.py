"""One physics step of MuJoCo Warp, its parts in an order of our own.

`mujoco_warp.step` computes one part after the other, in some 140 kernels of which hardly one fills a GPU. Here contacts
and their constraints are found beside inertias, velocities and forces, on a stream of their own; and cameras, lights,
sensors and energies, which nothing reads, are left out. They are the engine's own functions on the same arrays, so the
results are the same to the bit.
"""

from __future__ import annotations

from typing import Any, Callable

import mujoco_warp as mjw
import warp as wp


def make_step(m: Any, device: Any) -> Callable[[Any], None]:
    """A function that advances a Data of this model by one time step, on Warp's current stream."""
    more = m.ntendon, m.nflex, m.na, m.nacttrnbody, m.flg_adhesion, m.opt.enableflags
    if any(more) or m.opt.integrator != mjw.IntegratorType.IMPLICITFAST:  # a task has added what needs further parts
        return lambda d: mjw.step(m, d)
    beside = wp.Stream(device) if wp.get_device(device).is_cuda else None

    def step(d: Any) -> None:
        mjw.kinematics(m, d)
        mjw.com_pos(m, d)
        with wp.ScopedStream(beside, sync_enter=True):
            mjw.collision(m, d)
            mjw.make_constraint(m, d)
        mjw.crb(m, d)
        mjw.transmission(m, d)
        mjw.fwd_velocity(m, d)
        mjw.fwd_actuation(m, d)
        mjw.fwd_acceleration(m, d, factorize=True)
        if beside is not None:
            wp.wait_stream(beside)
        mjw.solve(m, d)
        mjw.implicit(m, d)

    return step
