"""The page: in a real browser, and under attack by real connections."""

import contextlib
import http.client
import http.server
import os
import pty
import re
import signal
import socket
import sys
import threading
import time

import msgspec
import numpy as np
import programs
import pytest
import torch
import viser
import zstandard
from test_view import ENV, ROOT, TINY, make, no_display  # noqa: F401  (the last one is for all tests)
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import train_ppo
from dexhand_gym.sim import Box, Scene, SimConfig
from dexhand_gym.sim.mjcf import build_model
from dexhand_gym.watch.page import meshes, scales_of
from dexhand_gym.watch.viewer import side_by_side
from examples.scripted_grasp import scripted_env

pytestmark = pytest.mark.slow


@pytest.fixture
def playing():
    """An environment with a page, that a thread steps until the end."""
    env = scripted_env(5, seed=4, render_mode="human", render_port=0)
    viewer, over = env.unwrapped.viewer, threading.Event()

    def play():
        while not over.is_set():
            env.step(torch.zeros(5, 0))

    thread = threading.Thread(target=play)
    thread.start()
    yield viewer
    over.set()
    viewer.paused = False
    thread.join()
    env.close()


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = programs.need("chromium")
    for flag in [
        "headless",
        "host-resolver-rules=MAP evil.example 127.0.0.1",
        "no-sandbox",
        "disable-gpu",
        "enable-unsafe-swiftshader",
        "disable-quic",
        "no-first-run",
        "disable-sync",
        "disable-background-networking",
        "disable-component-update",
        "window-size=800,300",
    ]:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs.need("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_page_in_a_browser(playing, browser):
    viewer = playing
    browser.get(viewer.where)

    def shown(name):
        found = browser.execute_script("return document.getElementById(arguments[0])?.innerText", name)
        return found or ""

    def click(text):
        script = (
            "for (const b of document.querySelectorAll('button')) if (b.innerText.trim() == arguments[0]) b.click()"
        )
        browser.execute_script(script, text)

    wait_for(lambda: shown("step").isdigit())
    before = int(shown("step"))
    wait_for(lambda: int(shown("step")) > before)

    click("Pause")
    wait_for(lambda: shown("state") == "paused")
    wait_for(lambda: int(shown("step")) == viewer.steps)
    paused_at = viewer.steps
    time.sleep(1)
    assert int(shown("step")) == viewer.steps == paused_at

    click("Step")
    wait_for(lambda: int(shown("step")) == paused_at + 1)
    time.sleep(0.3)
    assert viewer.steps == paused_at + 1 and shown("state") == "paused"

    *terms, (_, total) = (line.split("\t")[::2] for line in shown("terms").splitlines()[1:])
    assert float(total) == pytest.approx(sum(float(weighted) for _, weighted in terms), abs=0.01)
    assert [name for name, _ in terms if name in ("reach", "lift")] == ["reach", "lift"]
    assert "of" in shown("success") and "into its episode" in shown("environment")

    from selenium.webdriver.common.keys import Keys

    (box,) = browser.find_elements("css selector", "input[value='0']")
    box.send_keys(Keys.BACKSPACE, "12")  # of five
    wait_for(lambda: "environment 4" in browser.find_element("tag name", "body").text)
    assert viewer.picked == 4

    viewer.picked = 3  # what a click on an environment does
    wait_for(lambda: "environment 3" in browser.find_element("tag name", "body").text)

    click("Play")
    wait_for(lambda: viewer.steps > paused_at + 5)
    problems = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert problems == []

    click("Pause")
    wait_for(lambda: viewer.paused)
    stopped_at = viewer.steps
    page = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.switch_to.window(page)
    browser.close()  # whoever pauses and leaves does not stop the program
    wait_for(lambda: viewer.steps > stopped_at + 1)


def test_page_takes_up_a_newer_policy_in_the_loop(playing, browser):
    taken = []
    playing.on_reload = lambda: taken.append(threading.current_thread())
    browser.get(playing.where)
    find = "return [...document.querySelectorAll('button')].find(b => b.innerText.trim() == 'Newer policy')"
    wait_for(lambda: browser.execute_script(find))
    browser.execute_script(f"({find.replace('return ', '')}).click()")
    wait_for(lambda: taken)
    assert taken[0] is not threading.main_thread()


def test_page_is_for_this_machine_and_takes_a_free_port(caplog):
    first = make(render_mode="human", render_port=0)
    port = int(first.viewer.where.rsplit(":", 1)[1])
    second = make(render_mode="human", render_port=port)
    assert first.viewer.where == f"http://127.0.0.1:{port}" != second.viewer.where
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert not caplog.records
    public = make(render_mode="human", render_host="0.0.0.0", render_port=0)
    assert "env.render_host = '0.0.0.0': anybody" in caplog.text
    for env in (first, second, public):
        env.close()


def test_meshes_are_the_geoms():
    model = build_model(Scene(boxes=(Box(size=0.06),)), SimConfig(), visuals=True)
    found = meshes(model)
    (box,) = [mesh for mesh, bodies in found if bodies == [model.body("box").id - 1]]
    np.testing.assert_allclose(box.bounds, [[-0.03] * 3, [0.03] * 3], atol=1e-6)
    bodies = {body for _, bodies in found for body in bodies}
    visible = (model.geom_group < 3) & (model.geom_bodyid > 0)
    assert bodies == set(model.geom_bodyid[visible] - 1)
    assert len(found) < 25, "fingers share their meshes"
    # The distal links of index to little finger look the same, and reach as far as their tips.
    (tips,) = [
        (mesh, bodies)
        for mesh, bodies in found
        if model.body("r_f_link2_4").id - 1 in bodies and len(bodies) >= 4 and mesh.bounds[1, 0] > 0.02
    ][-1:]
    assert tips[0].bounds[1, 0] == pytest.approx(0.035, abs=0.004)


def test_boxes_on_the_page_have_their_own_sizes():
    env = make(num_envs=5, render_mode="human", render_port=0, randomize={"box_size": (0.03, 0.07)})
    frame = env.viewer._fetch()
    bodies = [env.sim.body_names.index(name) for name in ("hand_base", "box")]
    scales = scales_of(frame, bodies, env.viewer._nominal).reshape(5, 2, 3)
    np.testing.assert_allclose(scales[:, 0], 1.0)
    np.testing.assert_allclose(scales[:, 1], 2 * env.object_halves[:, 0] / 0.05, rtol=1e-5)
    env.viewer.draw(frame)
    (handle,) = [handle for handle, of in env.viewer._bodies if of == bodies[1:]]
    np.testing.assert_allclose(handle.batched_scales, scales[:, 1])
    env.close()


def test_side_by_side():
    np.testing.assert_allclose(side_by_side(1, 0.6), [[0, 0, 0]])
    places = side_by_side(5, 0.5)  # 3 + 2
    np.testing.assert_allclose(places[:, :2], [[-0.25, 0.5], [-0.25, 0], [-0.25, -0.5], [0.25, 0.5], [0.25, 0]])


# --- What a page says ------------------------------------------------------------------------------------------------

CAMERA = {"wxyz": (1, 0, 0, 0), "position": (0, 0, 1), "look_at": (0, 0, 0), "up_direction": (0, 0, 1)}
CAMERA = {"type": "ViewerCameraMessage", "fov": 1.0, "near": 0.1, "far": 9.0, **CAMERA}
CAMERA = {**CAMERA, "image_height": 9, "image_width": 9}
CLICK = {"ray_origin": (0, 0, 1), "ray_direction": (0, 0, -1), "screen_pos": (0.5, 0.5), "modifier": None}
CLICK = {"type": "SceneNodeClickMessage", "name": "/bodies/0", **CLICK}


class Client:
    """Speaks viser's protocol as its page does, and says what it likes. `controls`: label -> uuid; `values`: uuid -> value;
    `texts`: uuid -> what is written there."""

    def __init__(self, where, **options):
        url = where.replace("http", "ws")
        self.socket = connect(
            url, subprotocols=[f"viser-v{viser.__version__}"], max_size=None, close_timeout=0.1, **options
        )
        self.controls, self.values, self.texts, self.types = {}, {}, {}, set()
        self.say(CAMERA)

    def close(self):
        self.socket.close()

    def say(self, message):
        self.socket.send(msgspec.msgpack.encode(message))

    def set(self, label, **updates):
        self.say({"type": "GuiUpdateMessage", "uuid": self.controls[label], "updates": updates})

    def listen(self):
        """Takes in what has come so far. A training that is watched never pauses of itself."""
        end = time.monotonic() + 2
        while time.monotonic() < end:
            try:
                raw = self.socket.recv(timeout=0.2)
            except (TimeoutError, ConnectionClosed):
                return self
            packed = raw[16 : 16 + int.from_bytes(raw[8:16], "little")]
            for message in msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed))["messages"]:
                self.types.add(message["type"])
                if "label" in message.get("props", ()):
                    self.controls[message["props"]["label"]] = message["uuid"]
                written = message.get("props", message.get("updates", {}))
                if isinstance(written, dict) and "content" in written:
                    self.texts[message["uuid"]] = written["content"]
                if message["type"].startswith("Gui") and "uuid" in message:
                    self.values.setdefault(message["uuid"], message.get("value"))
                    if "value" in message.get("updates", ()):
                        self.values[message["uuid"]] = message["updates"]["value"]
        return self

    def value(self, label):
        return self.listen().values[self.controls[label]]


@pytest.fixture
def eight():
    """Eight environments with a page that a client looks at, and a function that steps them."""
    env = make(num_envs=8, render_mode="human", render_port=0)
    env.viewer.speed = "max"
    client = Client(env.viewer.where)
    wait_for(env.viewer.watched)

    def step():
        env.step(torch.zeros(8, 18))
        return env.viewer

    step()
    yield client.listen(), step
    client.close()
    env.close()


GOOD = {"Environment": 2, "Shown": 4, "Speed": "2x"}
BAD = [
    ("Environment", 12, 7),
    ("Environment", -3, 0),
    ("Environment", 2**63, 7),
    ("Environment", "5", 5),
    ("Environment", "nonsense", 2),
    ("Environment", float("nan"), 2),
    ("Environment", None, 2),
    ("Environment", [1], 2),
    ("Shown", 0, 1),
    ("Shown", 10**9, 8),
    ("Shown", float("inf"), 4),
    ("Speed", "bogus", "2x"),
    ("Speed", 3, "2x"),
    ("Speed", None, "2x"),
]


def test_values_from_a_page_are_clamped_or_ignored(eight, capfd, caplog):
    client, step = eight
    viewer = step()

    def wait_for_all(**values):
        values = {**GOOD, **values}
        wait_for(lambda: (viewer.picked, viewer.shown, viewer.speed) == tuple(values.values()), 5)
        step()

    for label, value, becomes in BAD:
        for control, good in GOOD.items():
            client.set(control, value=good)
        wait_for_all()
        client.set(label, value=value)
        before = viewer._show_forces.value
        client.set("Contact forces", value=not before)  # once that has come, so has the value
        wait_for(lambda: viewer._show_forces.value is not before)  # noqa: B023
        wait_for_all(**{label: becomes})
    for label, value, _ in BAD:
        client.set(label, value=value)
    assert step() is viewer

    def shown_to_another_page():
        with contextlib.closing(Client(viewer.where)) as late:
            return [late.value(label) for label in GOOD]

    wait_for(lambda: shown_to_another_page() == [viewer.picked, viewer.shown, viewer.speed])
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_what_no_page_should_say_is_not_heard(eight, capfd, caplog):
    client, step = eight
    other = Client(step().where)
    environment, speed = client.controls["Environment"], client.controls["Speed"]
    for updates in ({"update_cb": 3}, {"props": None}, {"removed": True}, {"value": 3, "uuid": "x"}, {}, None, 7):
        client.say({"type": "GuiUpdateMessage", "uuid": environment, "updates": updates})
        client.say({"type": "GuiUpdateMessage", "uuid": speed, "updates": updates})
    for uuid in ([], None, "unknown", {"a": 1}):
        client.say({"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": 1}})
    for index in (-1, 10**9, None, "x", 2.5, [0]):
        client.say({**CLICK, "instance_index": index})
    client.say({**CLICK, "name": []})
    # What viser would do on demand: an address for the whole Internet, files, words for the other pages.
    for kind in ("ShareUrlRequest", "ShareUrlDisconnect", "FileTransferStartUpload", "GuiFormDirtyMessage", "Nonsense"):
        client.say(
            {"type": kind, "uuid": "x", "source_component_uuid": speed, "transfer_uuid": "x", "size_bytes": 2**50}
        )
    for raw in (b"", b"\xc1", b"\x91" * 100_000, "text", msgspec.msgpack.encode([1]), bytes(2**19)):
        client.socket.send(raw)
    client.set("Environment", value=5)
    viewer = step()
    wait_for(lambda: viewer.picked == 5)
    assert step() is viewer and viewer.shown == 8
    assert not {"GuiFormDirtyMessage", "ShareUrlUpdated"} & other.listen().types
    other.close()
    assert (capfd.readouterr().err, caplog.text) == ("", "")
    assert viewer.watched()
    client.socket.send(bytes(2**21))  # too large: the end of this connection, not of the page
    wait_for(lambda: not viewer.watched())
    Client(viewer.where).close()
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_a_click_picks_its_environment(eight):
    client, step = eight
    viewer = step()
    bodies = len(viewer._bodies[0][1])
    client.say({**CLICK, "instance_index": 6 * bodies})
    wait_for(lambda: viewer.picked == 6)
    assert client.value("Environment") == 6


@pytest.mark.parametrize("fault", ["reload", "draw", "video"])
def test_what_cannot_be_shown_ends_the_show_only(eight, caplog, tmp_path, fault):
    _, step = eight
    viewer, seen = step(), []
    viewer.env.watchers.append(seen.append)
    if fault == "reload":
        viewer.on_reload, viewer.reload_wanted = lambda: {}["policy"], True
    elif fault == "draw":
        viewer.env.cfg.env.spacing = None
    else:
        from dexhand_gym.watch.video import Recorder

        with Recorder(viewer.env, tmp_path) as recorder:
            recorder._stride = 0
            recorder.start("lift")
            assert step() is viewer
        assert caplog.messages == ["no video lift: integer modulo by zero"]
        return
    viewer._seen = None
    time.sleep(0.05)  # until the next picture is due
    assert step() is None
    step()
    assert len(seen) == 2, "others hear of both steps"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("no longer shown: ")
    with pytest.raises(ConnectionRefusedError):
        Client(viewer.where)


@pytest.mark.parametrize(
    ("line", "number"), [("--render", signal.SIGTERM), ("--test --checkpoint pretrained", signal.SIGINT)]
)
def test_a_signal_wakes_a_pause(tmp_path, line, number):
    endless = "--max-iterations 100000 --train.test-episodes 0"  # a test that nobody watches yet runs at full speed
    command = f"{TINY} {endless} --env.render-port 0 --log-level info {line}"
    process = programs.start([sys.executable, str(ROOT / "train_ppo.py"), *command.split()], tmp_path, ENV)
    where = next(line.split()[-1] for line in process.stdout if "watch: " in line)
    client = Client(where)
    wait_for(lambda: "Pause" in client.listen().controls)
    client.set("Pause", value=True)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(number)
    out, _ = process.communicate(timeout=300)
    client.close()
    assert process.returncode == 128 + number, out
    assert "Traceback" not in out
    if "--test" not in line:
        assert "checkpoint saved" in out


@pytest.mark.parametrize("visited", [True, False])
def test_who_asks_at_a_terminal_is_waited_for(tmp_path, visited):
    """A test begins with the first visitor, or at Enter, and stays to be seen until Ctrl-C, which is no failure."""
    ours, theirs = pty.openpty()
    command = (
        f"{TINY} --test --checkpoint pretrained --render --env.render-port 0 --train.test-episodes 2 --log-level info"
    )
    program = [sys.executable, str(ROOT / "train_ppo.py"), *command.split()]
    process = programs.start(program, tmp_path, ENV, stdin=theirs)
    seen = []

    def wait_for_line(text):
        seen.append(next(line for line in process.stdout if text in line))
        return seen[-1]

    where = re.search(r"http://[\d.:]+", wait_for_line("waiting until somebody opens"))[0]
    time.sleep(1)
    assert not list((tmp_path / "runs_all").glob("*/result.json")), "it has not begun"
    if visited:
        client = Client(where)
        client.listen()
        client.set("Speed", value="max")
    else:
        os.write(ours, b"\n")
    wait_for_line("tested: ")
    assert where in wait_for_line("still to be seen")
    late = Client(where)  # who comes late sees it too
    wait_for(lambda: "Pause" in late.listen().controls)
    late.close()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, "Traceback" in out) == (0, False), out


# --- Who may speak ---------------------------------------------------------------------------------------------------


def ask(address, host, origin=None):
    """The status that a browser's request for the page gets, and that of a connection to it."""
    headers = {"Host": host, **({"Origin": origin} if origin else {})}
    request = http.client.HTTPConnection(*address, timeout=5)
    request.putrequest("GET", "/", skip_host=True)
    for name, value in headers.items():
        request.putheader(name, value)
    request.endheaders()
    status = request.getresponse().status
    request.close()
    try:
        own = socket.create_connection(address)
        Client(f"http://{host}", sock=own, origin=origin).socket.close()
        return status, 101
    except InvalidStatus as error:
        return status, error.response.status_code


def test_only_its_own_pages_reach_a_page(capfd, caplog):
    env = make(render_mode="human", render_port=0)
    address = "127.0.0.1", int(env.viewer.where.rsplit(":", 1)[1])
    port = address[1]
    welcome, refused = (200, 101), (403, 403)
    for host, origin, status in [
        (f"127.0.0.1:{port}", None, welcome),  # a script
        (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}", welcome),
        (f"localhost:{port}", f"http://localhost:{port}", welcome),
        (f"LocalHost:{port}", f"http://localhost:{port}", welcome),
        ("localhost:9999", "http://localhost:9999", welcome),  # ssh -L 9999:127.0.0.1:8080
        (f"[::1]:{port}", f"http://[::1]:{port}", welcome),
        (f"127.0.0.1:{port}", "http://evil.example", refused),
        (f"127.0.0.1:{port}", f"http://localhost:{port}", refused),
        (f"127.0.0.1:{port}", "http://127.0.0.1:8888", refused),  # another server on this machine
        (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}.evil.example", refused),
        (f"127.0.0.1:{port}", "null", refused),
        (f"evil.example:{port}", f"http://evil.example:{port}", refused),  # DNS rebinding
        (f"evil.example:{port}", None, refused),
        (f"localhost.evil.example:{port}", None, refused),
        (f"10.0.0.5:{port}", f"http://10.0.0.5:{port}", refused),
        (f"{socket.gethostname()}.example:{port}", None, refused),
    ]:
        assert ask(address, host, origin) == status, (host, origin)
    request = http.client.HTTPConnection(*address, timeout=5)
    request.request("GET", "/")
    assert request.getresponse().getheader("Content-Security-Policy") == "frame-ancestors 'self'"
    with socket.create_connection(address) as raw:  # no Host, two of them
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b" 403 " in raw.recv(100)
    with socket.create_connection(address) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert b" 403 " in raw.recv(100)
    with socket.create_connection(address) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        raw.recv(100)
    env.close()
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_a_public_page_answers_to_addresses_and_its_own_names():
    env = make(render_mode="human", render_host="0.0.0.0", render_port=0)
    address = "127.0.0.1", int(env.viewer.where.rsplit(":", 1)[1])
    for host, status in [
        ("10.0.0.5:8080", 200),
        ("[fd00::2]:8080", 200),
        ("localhost", 200),
        (f"{socket.gethostname()}:8080", 200),
        ("evil.example:8080", 403),
        (f"{socket.gethostname()}.evil.example", 403),
    ]:
        assert ask(address, host)[0] == status, host
    assert ask(address, "10.0.0.5:8080", "http://evil.example") == (403, 403)
    env.close()


EVIL = """<title>wait</title><script>
const socket = new WebSocket("ws://127.0.0.1:PORT", "viser-vVERSION")
socket.onopen = () => document.title = "in"
socket.onerror = () => document.title = "out"
</script><iframe src="http://127.0.0.1:PORT"></iframe>"""


def test_other_peoples_pages_do_not_reach_a_page(playing, browser, tmp_path):
    """In a browser in which evil.example is this machine, as after DNS rebinding, and serves a page at another port too."""
    port = playing.where.rsplit(":", 1)[1]
    (tmp_path / "index.html").write_text(EVIL.replace("PORT", port).replace("VERSION", viser.__version__))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as evil:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        browser.get(f"http://evil.example:{evil.server_port}/index.html")
        wait_for(lambda: browser.title in ("in", "out"))
        assert browser.title == "out"
        browser.get(f"http://evil.example:{port}")
        assert "This page answers to its own address only" in browser.page_source
        assert not playing.watched()
        browser.get(playing.where)
        wait_for(playing.watched)
        evil.shutdown()


# --- Where it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--env.render-host no-such-host.invalid",
            "env.render_host = 'no-such-host.invalid': ",
        ),
        ("--env.render-host 203.0.113.7", "env.render_host = '203.0.113.7': Cannot assign requested address"),
        ("--env.render-host=", "env.render_host = ''"),
        (f"--env.render-host {'a' * 70}.example", "env.render_host = 'aaaa"),
        ("--env.render-port 65535", "env.render_port = 65535: taken up to 65535; allowed is a free port, or 0"),
    ],
)
def test_a_page_that_cannot_be_there_is_one_line_before_the_run(tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 65535)):
        for command in (f"{TINY} --env.render", "--test --checkpoint pretrained --task BoxGrasping"):
            start = time.monotonic()
            assert train_ppo.main([*command.split(), *line.split()]) == 2
            assert time.monotonic() - start < 20
            _, err = capsys.readouterr()
            assert message in err and err.count("\n") == 1
            assert list(tmp_path.iterdir()) == []


def test_a_page_at_an_ipv6_address():
    env = make(render_mode="human", render_host="::1", render_port=0)
    port = int(env.viewer.where.rsplit(":", 1)[1])
    assert env.viewer.where == f"http://[::1]:{port}"
    assert ask(("::1", port), f"[::1]:{port}", env.viewer.where) == (200, 101)
    env.close()
