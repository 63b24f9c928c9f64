"""An exported policy grasps in plain MuJoCo, without dexhand_gym and without torch:

python -m dexhand_gym.export --checkpoint pretrained --out exported
python examples/deploy_in_mujoco.py exported
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from dexhand_deploy import Contract, Observer, Policy, SimBody, Targets


def main(folder: str) -> None:
    contract = Contract(folder)
    policy, observer, targets, body = Policy(contract), Observer(contract), Targets(contract), SimBody(contract)
    starts, succeeded = contract.said["starts"], 0
    for i in range(len(starts["hand"])):
        targets.reset(body.reset({name: rows[i] for name, rows in starts.items()}))
        observer.reset()
        observation, held = observer(body.read(), targets.current, 0.0), 0.0
        for _ in range(500):  # 10 s
            action = policy(observation)
            observer.acted(action)
            body.send(targets(action))
            observation = observer(body.read(), targets.current, contract.control_dt)
            held = held + contract.control_dt if body.read()["box"][2] > 0.2 else 0.0
            if held >= 2.0:
                succeeded += 1
                break
    print(f"{succeeded} of {len(starts['hand'])} lifted above 20 cm and held for 2 s")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"{__doc__}\nallowed is one folder of an export")
    main(sys.argv[1])
