"""Who holds a client's connection: the transport knows, and a server may have been talked into saying otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from distributer.doors.peer import peer_of, peer_of_scope
from distributer.wire.fields import Field
from distributer.wire.node import UNIX, UNKNOWN


class Transport:
    """As much of a transport as is asked for; uvloop's is no subclass of asyncio's either."""

    def __init__(self, **info: Any) -> None:
        self._info = info

    def get_extra_info(self, name: str) -> Any:
        return self._info.get(name)


class Cycle:
    """Whose method a server gives as `receive`."""

    def __init__(self, transport: object) -> None:
        self.transport = transport

    async def receive(self) -> None: ...


async def hidden() -> None:
    """Receive, through middleware: the server's own is not to be seen."""


TRANSPORTS: list[tuple[dict[str, Any], tuple[str, bytes]]] = [
    ({"peername": ("192.0.2.1", 5555), "sockname": ("192.0.2.2", 80)}, ("192.0.2.1", b"http")),
    ({"peername": ("::1", 5555, 0, 0), "sslcontext": object()}, ("::1", b"https")),
    ({"peername": "", "sockname": "/run/d.sock"}, (UNIX, b"http")),
    ({"peername": None, "sockname": "/run/d.sock"}, (UNIX, b"http")),
    ({"peername": None, "sockname": ("192.0.2.2", 80)}, (UNKNOWN, b"http")),
    ({}, (UNKNOWN, b"http")),
]


@pytest.mark.parametrize(("info", "peer"), TRANSPORTS)
def test_a_transport_knows_its_peer(info: dict[str, Any], peer: tuple[str, bytes]) -> None:
    transport: Any = Transport(**info)
    assert peer_of(transport) == peer


FOR: Field = (b"x-forwarded-for", b"6.6.6.6, 7.7.7.7:80")
PROTO: Field = (b"x-forwarded-proto", b"https")
LISTENS = ("192.0.2.2", 80)
SCOPES: list[tuple[dict[str, Any], list[Field], tuple[str, bytes]]] = [
    # client, server and scheme of the scope; fields that came -> peer
    ({"client": ("192.0.2.1", 5), "server": LISTENS}, [], ("192.0.2.1", b"http")),
    ({"client": ("192.0.2.1", 5), "server": LISTENS, "scheme": "https"}, [], ("192.0.2.1", b"https")),
    ({"client": None, "server": ("/run/d.sock", None)}, [], (UNIX, b"http")),
    ({"client": None, "server": LISTENS}, [], (UNKNOWN, b"http")),
    ({}, [], (UNKNOWN, b"http")),
    # With such fields, and nobody to ask: what agrees with them may have been copied from them.
    ({"client": ("192.0.2.1", 5), "server": LISTENS}, [FOR], ("192.0.2.1", b"http")),
    ({"client": ("6.6.6.6", 0), "server": LISTENS}, [FOR], (UNKNOWN, b"http")),
    ({"client": ("7.7.7.7", 80), "server": LISTENS}, [FOR], (UNKNOWN, b"http")),
    ({"client": ("192.0.2.1", 5), "scheme": "https"}, [PROTO], ("192.0.2.1", b"http")),
    ({"client": ("192.0.2.1", 5), "scheme": "https"}, [FOR, (b"via", b"1.1 a")], ("192.0.2.1", b"https")),
]


@pytest.mark.parametrize(("scope", "forwarded", "peer"), SCOPES)
def test_a_scope_is_believed_unless_it_may_be_what_the_client_wrote(
    scope: dict[str, Any], forwarded: list[Field], peer: tuple[str, bytes]
) -> None:
    assert peer_of_scope({"scheme": "http", **scope}, hidden, forwarded) == peer


@pytest.mark.parametrize("forwarded", [[FOR], [PROTO], [FOR, PROTO]])
def test_where_there_is_a_transport_it_is_asked_instead(forwarded: list[Field]) -> None:
    scope = {"client": ("6.6.6.6", 0), "server": LISTENS, "scheme": "https"}
    receive = Cycle(Transport(peername=("192.0.2.1", 5))).receive
    assert peer_of_scope(scope, receive, forwarded) == ("192.0.2.1", b"http")
