"""Access to the page: where it listens, who may connect, and which messages viser receives."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import re
import socket
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Collection, Optional, Union

import msgspec
import viser
from websockets.asyncio import server
from websockets.datastructures import Headers

log = logging.getLogger(__name__)

PORTS_TRIED = 100
HOST = re.compile(r"(?:\[([\da-f:.]+)\]|([^\[\]:@/]+))(?::\d+)?")
LARGEST_MESSAGE = 2**20  # bytes; messages of our page have some hundred


def listen(host: str, port: int) -> socket.socket:
    """Listens on an address of this machine, at `port` or the next free one (0: at any). Raises ValueError, one
    line."""
    allowed = "allowed is a name or an address of this machine"
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: no name could look like this
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"env.render_host = {host!r}: {why}; {allowed}, such as 127.0.0.1") from error
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    for free in range(port, min(port + PORTS_TRIED, 65536)) if port else [0]:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address[0], free, *address[2:]))
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            if error.errno == errno.EACCES:
                raise ValueError(f"env.render_port = {port}: {error.strerror}; allowed is 1024 to 65535") from error
            if error.errno != errno.EADDRINUSE:
                raise ValueError(f"env.render_host = {host!r}: {error.strerror}; {allowed}") from error
    last = min(port + PORTS_TRIED, 65536) - 1
    raise ValueError(f"env.render_port = {port}: taken up to {last}; allowed is a free port, or 0 (any)")


def is_public(listener: socket.socket) -> bool:
    """Whether other machines can reach it."""
    return not ip_address(listener.getsockname()[0]).is_loopback


def may_speak(headers: Headers, names: Collection[str], public: bool) -> bool:
    """Whether a request is meant for this server and, if a browser sends it for a page, for a page of this server.

    Any site that the user visits can connect to this machine, but the browser then names the site in Origin. A site can
    also point its own name at this machine (DNS rebinding); then that name stands in Host. A numeric address cannot be
    pointed elsewhere."""
    hosts = [host.lower() for host in headers.get_all("Host")]
    match = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return False
    name = match[1] or match[2]
    if name not in names:
        try:
            address = ip_address(name)
        except ValueError:
            return False
        if not (public or address.is_loopback):
            return False
    return all(origin.lower() in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in headers.get_all("Origin"))


class Camera(msgspec.Struct, tag="ViewerCameraMessage"):
    """A visitor's camera."""


class Click(msgspec.Struct, tag="SceneNodeClickMessage"):
    """A visitor's click on a mesh."""

    instance_index: Optional[int]


class Value(msgspec.Struct, forbid_unknown_fields=True):
    """A control's new value. The viewer checks its range (viewer.Choice)."""

    value: Union[bool, int, float, str]


class Update(msgspec.Struct, tag="GuiUpdateMessage"):
    """A visitor's use of a control."""

    updates: Value


HEARD = msgspec.msgpack.Decoder(Union[Camera, Click, Update])


class Connection(server.ServerConnection):
    """Drops messages that HEARD does not accept. On request, viser would also change any attribute of a control, pass
    messages on to other pages, collect files, and share the page on the Internet."""

    async def recv(self, decode: Optional[bool] = None) -> Any:
        """The next message that HEARD accepts."""
        while True:
            message = await super().recv(decode)
            with contextlib.suppress(msgspec.DecodeError, TypeError, RecursionError):
                HEARD.decode(message)  # pyright: ignore[reportArgumentType]
                return message


def open_server(listener: socket.socket, host: str, label: str) -> viser.ViserServer:
    """viser's server, behind `listener` and the checks above. viser has no settings for them, so the function it serves
    with is replaced while it starts."""
    public = is_public(listener)
    names = {"localhost", host.lower(), *([socket.gethostname().lower()] if public else [])}
    silent = logging.getLogger(f"{__name__}.websockets")
    silent.setLevel(logging.CRITICAL + 1)  # else anybody can fill the log with tracebacks
    plain, guarded = server.serve, []

    def serve(handler: Any, *_: Any, process_request: Any, **options: Any) -> server.serve:
        def check(connection: server.ServerConnection, request: Any) -> Any:
            if not may_speak(request.headers, names, public):
                return connection.respond(HTTPStatus.FORBIDDEN, "This page answers to its own address only.\n")
            response = process_request(connection, request)
            if response is not None:
                response.headers["Content-Security-Policy"] = "frame-ancestors 'self'"  # no clickjacking
            return response

        guarded.append(listener)
        options.update(create_connection=Connection, max_size=LARGEST_MESSAGE, logger=silent)
        return plain(handler, sock=listener, process_request=check, **options)

    server.serve = serve  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # viser greets at length
            opened = viser.ViserServer(host=host, port=listener.getsockname()[1], label=label, verbose=False)
    finally:
        server.serve = plain
    # viser's tracebacks about messages that it cannot use
    opened.get_event_loop().set_exception_handler(lambda _, context: log.debug("page: %s", context.get("message")))
    if not guarded:
        opened.stop()
        raise RuntimeError(f"viser {viser.__version__} serves the page past its guard: pip install viser==1.1.1")
    return opened
