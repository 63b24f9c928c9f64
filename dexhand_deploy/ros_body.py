"""The real hand by the vendor's ROS node, which takes JointState messages on /joint_commands and reports nothing."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import numpy as np

from .contract import Contract
from .dexhand_body import Arm

Array = Any


class RosBody:
    """Publishes one joint of every finger action, in rad, by its name in the URDF; the node moves those that are coupled to
    it. Of the spread that is the first finger's joint alone: the node averages all that it gets, and the little finger's
    is twice the others', so that all three would spread the hand by 4/3.

    `publish(names, positions)` sends a message; `feedback()` returns readings (observer.py) from wherever they come, for
    the node announces /joint_states and does not send it. `ros2_publisher()` makes a publish().
    """

    def __init__(
        self,
        contract: Contract,
        publish: Callable[[List[str], List[float]], None],
        feedback: Callable[[], Dict[str, Any]],
        arm: Any = None,
    ):
        self.contract, self.publish, self.feedback = contract, publish, feedback
        self.arm = Arm(contract) if arm is None else arm
        self.names = [str(name) for name in contract.said["hand"]["active_joints"]]
        rows = [contract.joints.index(name) for name in self.names]
        self.scale = contract.coupling[rows][:, contract.base :]

    def send(self, targets: Array) -> None:
        """Sends the fingers' part of these action targets [T], and the base's to the arm."""
        self.arm.send(targets[: self.contract.base])
        positions = self.scale @ np.asarray(targets[self.contract.base :], float)
        self.publish(self.names, positions.tolist())

    def read(self) -> Dict[str, Any]:
        """What feedback() returns, and where the arm is."""
        return {**self.feedback(), "base": np.asarray(self.arm.read())}

    def health(self) -> Dict[str, Any]:
        """The node tells nothing."""
        return {}


def ros2_publisher(topic: str = "/joint_commands") -> Callable[[List[str], List[float]], None]:
    """A publish() by ROS 2. Raises ValueError, one line, where that is not installed."""
    try:
        import rclpy  # pyright: ignore[reportMissingImports]
        from sensor_msgs.msg import JointState  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("the body ros needs ROS 2 (rclpy, sensor_msgs): source its setup.bash") from None
    if not rclpy.ok():
        rclpy.init()
    node = rclpy.create_node("dexhand_deploy")
    publisher = node.create_publisher(JointState, topic, 1)

    def publish(names: List[str], positions: List[float]) -> None:
        message = JointState()
        message.header.stamp = node.get_clock().now().to_msg()
        message.name, message.position = names, positions
        publisher.publish(message)

    return publish
