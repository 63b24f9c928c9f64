"""Not Isaac Gym: a stand-in for the part of it that dexhand_gym calls, for tests only, never installed.

Isaac Gym Preview 4 is proprietary and runs on Python 3.8 with an NVIDIA driver. This package has the same names,
signatures and flat tensor layouts, taken from its public documentation, on plain MuJoCo, one environment after the other.
It is stricter than the original wherever that would go on with wrong numbers: it raises where functions are called in a
wrong order, where a tensor has the wrong type, size or place or has been freed, where a setter is called twice between two
steps, where a field does not exist, and where torch was imported first. Tensors are NaN until they are refreshed, and so
again after every step.

What passes here has been said to the API as documented. Not shown by that, and unproven: that the original's importer
makes the same hand of the file, in this order of bodies and dofs or in any; PhysX's own behaviour (drives, friction,
penetration, whether a grasp holds); the GPU pipeline; pictures and the viewer; speed.
"""

import sys

if "torch" in sys.modules:
    raise ImportError("PyTorch was imported before isaacgym modules.  Please import torch after isaacgym modules.")

from isaacgym import gymapi  # noqa: F401
