"""Reports what is installed here, whether it works, and how to repair the rest: python -m dexhand_gym.doctor

One line per component. Everything is tried out: an engine steps an environment, a renderer draws it, ffmpeg encodes a
clip. Each check runs in its own process, so that none can affect another. Exit status 1 if no engine works.
"""

from __future__ import annotations

import argparse
import platform
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import NamedTuple, Tuple

ENGINE = """
import torch
from dexhand_gym.envs import make_vec_env
env = make_vec_env("dexhand_gym.envs.box_grasping:BoxGrasping", 2, backend="{backend}")
assert torch.isfinite(env.step(torch.zeros(env.action_space.shape, device=env.device))[0]).all(), "observations are not finite"
print(f"steps BoxGrasping on {{env.device}}")
"""
NEEDS_MUJOCO = """
from dexhand_gym.sim import check_mujoco
check_mujoco()
"""
RENDERER = """
import os
os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = "{name}"
{needs}
from dexhand_gym.envs import make_vec_env
from dexhand_gym.watch.render import Renderer, coordinates
env = make_vec_env("dexhand_gym.envs.box_grasping:BoxGrasping", backend="none")
assert Renderer(env, (64, 64)).draw(coordinates(env)[0].numpy()).std() > 1, "the picture is blank"
print("draws")
"""
WINDOW = """
from dexhand_gym.watch.display import has_display
if not has_display():
    raise SystemExit("no display")
print("opens")
"""
PAGE = """
import dexhand_gym.watch.page
from dexhand_gym.watch.gate import listen, open_server
open_server(listen("127.0.0.1", 0), "127.0.0.1", "doctor").stop()
print("serves")
"""
VIDEO = """
import os, tempfile, numpy
from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter
with tempfile.TemporaryDirectory() as folder:
    with FFMPEG_VideoWriter(folder + "/a.mp4", (64, 64), 30, ffmpeg_params=["-pix_fmt", "yuv420p"]) as video:
        for i in range(30):
            video.write_frame(numpy.full((64, 64, 3), 8 * i, numpy.uint8))
    assert os.path.getsize(folder + "/a.mp4") > 500, "the clip is empty"
print("encodes")
"""
TORCH = """
import torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
torch.zeros(1, device="cuda" if names else "cpu").item()
print(torch.__version__, "with", ", ".join(names) or "no CUDA device")
"""
VERSION = "import {module}\nfrom importlib.metadata import version\nprint(version('{package}'))"

# Runs in a process of its own and ends by os._exit: some engines crash when the interpreter shuts down.
CHILD = """
import os, sys
status = 0
try:
    exec(sys.argv[1], {})
except BaseException as error:
    status = 2 if isinstance(error, SystemExit) else 1
    print("" if status == 2 else f"{type(error).__name__}:", *str(error).split())
sys.stdout.flush()
os._exit(status)
"""


class Check(NamedTuple):
    """A line of the report."""

    name: str
    module: str
    """The module that is needed; if it is not installed, `code` is not run."""
    code: str
    """Code to run: prints the text to report if it works, raises an error that says why not, or SystemExit if there is
    none here."""
    install: str
    """How to get the module."""
    repair: str = ""
    """What to do if it is installed but does not work; by default `install`."""


def version(module: str, install: str, package: str = "") -> Check:
    """Whether a package can be imported."""
    return Check(module, module.split(".")[0], VERSION.format(module=module, package=package or module), install)


MUJOCO = "pip install mujoco==4.0.0" + ("" if sys.version_info >= (3, 11) else " on Python 3.11 or newer")
ENGINES = (
    Check("isaacgym", "isaacgym", "import isaacgym" + ENGINE.format(backend="isaacgym"), "see docs/isaac-gym.md"),
    Check("mujoco", "mujoco", ENGINE.format(backend="mujoco"), MUJOCO),
    Check("mjwarp", "mujoco_warp", ENGINE.format(backend="mjwarp"), "pip install 'dexhand-gym[gpu]'"),
)
OTHERS = (
    Check("torch", "torch", TORCH, "pip install torch", "a PyTorch for this machine's driver: https://pytorch.org"),
    version("gymnasium", "pip install 'gymnasium>=1.1'"),
    Check(
        "egl", "mujoco", RENDERER.format(name="egl", needs=NEEDS_MUJOCO), MUJOCO, "apt-get install libegl1 libegl-mesa0"
    ),
    Check("osmesa", "mujoco", RENDERER.format(name="osmesa", needs=NEEDS_MUJOCO), MUJOCO, "apt-get install libosmesa6"),
    Check("window", "mujoco", NEEDS_MUJOCO + WINDOW, MUJOCO, "watch the page, or record a video"),
    Check("page", "viser", NEEDS_MUJOCO + PAGE, "pip install 'dexhand-gym[view]'"),
    Check("video", "moviepy", VIDEO, "pip install moviepy", "pip install imageio-ffmpeg, or apt-get install ffmpeg"),
    version("tyro", "pip install tyro"),
    version("yaml", "pip install pyyaml", "pyyaml"),
    version("rich", "pip install rich"),
    version("tensorboard", "pip install tensorboard"),
    version("matplotlib", "pip install 'dexhand-gym[plot]'"),
    version("wandb", "pip install 'dexhand-gym[wandb]'"),
    version("rl_games", "pip install 'dexhand-gym[parity]', not with Isaac Gym", "rl-games"),
)


def run(check: Check, timeout: float = 300) -> Tuple[str, str]:
    """The status (ok, missing or broken) and the text to report."""
    if find_spec(check.module) is None:
        return "missing", f"{check.module} is not installed; {check.install}"
    command = [sys.executable, "-c", CHILD, check.code]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=timeout)
        lines = done.stdout.decode(errors="replace").split("\n")
        text, status = next((line.strip() for line in reversed(lines) if line.strip()), ""), done.returncode
    except subprocess.TimeoutExpired:
        text, status = f"no answer in {timeout:.0f} s", 1
    if status < 0:
        text = f"crashes with {signal.Signals(-status).name}"
    if status and " install " not in text:
        text += f"; {check.repair or check.install}"
    return {0: "ok", 2: "missing"}.get(status, "broken"), text


def main() -> int:
    """Prints the report. Exit status: 0, or 1 if no engine works."""
    print(f"{'ok':8}{'python':13}{platform.python_version()}, {sys.executable}", flush=True)
    checks, found = (*ENGINES, *OTHERS), {}
    with ThreadPoolExecutor(4) as pool:
        for check, (status, text) in zip(checks, pool.map(run, checks)):
            found[check] = status
            print(f"{status:8}{check.name:13}{text}", flush=True)
    if not any(found[engine] == "ok" for engine in ENGINES):
        print("no engine works: see isaacgym, mujoco and mjwarp above")
        return 1
    return 0


def command() -> int:
    """main(), which ends without a word where nobody reads on, as `dexhand-doctor | head -1` does. It has no options but
    --help."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return main()


if __name__ == "__main__":
    sys.exit(command())
