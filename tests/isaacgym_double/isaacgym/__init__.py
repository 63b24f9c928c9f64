"""Not Isaac Gym: a stand-in for the part of it that dexhand_gym calls, for tests only, never installed.

Isaac Gym Preview 4 is proprietary and runs on Python 3.8 with an NVIDIA driver. This package has the same names,
signatures and flat tensor layouts, taken from its public documentation, on plain MuJoCo, one environment after the other.
It is stricter than the original wherever that would go on with wrong numbers: it raises where functions are called in a
wrong order, where a tensor has the wrong type, size or place or has been freed, where a setter is called twice between two
steps, where a field does not exist, where a second simulation is made in the process, and where torch was imported first.
Tensors are NaN until they are refreshed, and so again after every step. What a setter is given counts from the next step.

Environment variables make it another machine's: ISAACGYM_DOUBLE_IMPORT names an exception that importing it raises
(RuntimeError is what the original raises on another Python), ISAACGYM_DOUBLE_DISPLAY=none has no screen,
ISAACGYM_DOUBLE_ORIGINS=global counts positions from the world's origin, ISAACGYM_DOUBLE_ORDER=alphabet sorts bodies and
dofs, ISAACGYM_DOUBLE_SIMS=many allows several simulations, for tests that share a process. gymapi.FAILING has the calls
that fail, by name, and what they return then.

What passes here has been said to the API as documented. Not shown by that, and unproven: that the original's importer
makes the same hand of the file, in this order of bodies and dofs or in any; PhysX's own behaviour (drives, friction,
penetration, whether a grasp holds); the GPU pipeline; pictures and the viewer; speed.
"""

import builtins
import os
import sys

if "ISAACGYM_DOUBLE_IMPORT" in os.environ:
    raise getattr(builtins, os.environ["ISAACGYM_DOUBLE_IMPORT"])("No gym module found\nfor this Python")
if "torch" in sys.modules:
    raise ImportError("PyTorch was imported before isaacgym modules.  Please import torch after isaacgym modules.")

from isaacgym import gymapi  # noqa: F401
