"""python -m dexhand_gym.deploy is python -m dexhand_deploy."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    from dexhand_deploy.__main__ import main

    sys.exit(main())
