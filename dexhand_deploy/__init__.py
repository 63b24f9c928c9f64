"""Runs an exported policy with NumPy alone, on a simulation or a hand.

    from dexhand_deploy import Contract, Observer, Policy, Targets

    contract = Contract("exported")              # what `python -m dexhand_gym.export` has written
    policy, observer, targets = Policy(contract), Observer(contract), Targets(contract)

No hardware was at hand when this was written: everything is shown in simulation.
"""

from .contract import Contract
from .dexhand_body import Arm, DexHandBody
from .loop import Run, Safety, run
from .mock_hand import MockHand
from .observer import Observer
from .policy import Policy
from .ros_body import RosBody
from .sim_body import SimBody
from .targets import Targets

__version__ = "0.1.0"
"""Of both packages."""
__all__ = [
    "Arm",
    "Contract",
    "DexHandBody",
    "MockHand",
    "Observer",
    "Policy",
    "RosBody",
    "Run",
    "Safety",
    "SimBody",
    "Targets",
    "run",
]
