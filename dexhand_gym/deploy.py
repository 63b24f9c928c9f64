"""python -m dexhand_gym.deploy is python -m dexhand_deploy."""

import sys

if __name__ == "__main__":
    from dexhand_deploy.__main__ import main

    sys.exit(main())
