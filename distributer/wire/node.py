"""How proxies name those on the way: addresses and what stands for them, hosts, schemes; and whom to believe."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

UNIX = "unix"
"""The peer of a Unix socket: it has no address."""
UNKNOWN = "unknown"
"""The peer that nobody can name (RFC 7239 section 6.2)."""

PORT = rb":[0-9]{1,5}"
IPV6 = rb"\[[0-9A-Fa-f:.]{2,45}\]"
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%%-]{1,255}|%b)(?:%b)?" % (IPV6, PORT))
_NODE = re.compile(
    rb"""(?:
        (?P<v4>[0-9.]{7,15}) | \[(?P<v6>[0-9A-Fa-f:.]{2,45})\] | (?P<hidden>unknown|_[A-Za-z0-9._-]{1,64})
    )(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]{1,64}))?
    | (?P<bare>[0-9A-Fa-f:.]{2,45})""",
    re.VERBOSE,
)
"""RFC 7239 section 6; and `bare`, an IPv6 address without brackets, as X-Forwarded-For has it."""


class TrustedProxies:
    """The peers whose word about others counts: addresses, networks, and `unix` for all peers of Unix sockets."""

    __slots__ = ("_has_unix", "_networks")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        """Read `192.0.2.1`, `10.0.0.0/8`, `2001:db8::/32`, `unix`. Raises ValueError, naming the one that is wrong."""
        self._has_unix = False
        networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            if entry == UNIX:
                self._has_unix = True
                continue
            try:
                network = ip_network(entry)
            except ValueError as error:
                raise ValueError(f"{entry!r} is no address, no network and not {UNIX!r} ({error})") from error
            if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
                raise ValueError(f"{entry!r} holds addresses of IPv4: write them as such")
            networks.append(network)
        self._networks = tuple(networks)

    def __contains__(self, peer: str) -> bool:
        if peer == UNIX:
            return self._has_unix
        if not self._networks:
            return False
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def plain(address: str) -> str | None:
    """Spell an address without its zone, and one of IPv4 that came on an IPv6 socket as such. None if it is none."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return str(mapped or parsed)


@lru_cache(maxsize=1024)
def name_of(node: bytes) -> str | None:
    """Read a node without its port: its address, or what stands for one. None if it is malformed."""
    match = _NODE.fullmatch(node)
    if match is None:
        return None
    if match["hidden"] is not None:
        return match["hidden"].decode()
    return plain((match["v4"] or match["v6"] or match["bare"]).decode())


def is_node(value: bytes) -> bool:
    """Whether it is an element of X-Forwarded-For."""
    return name_of(value) is not None


def is_bare_ipv6(value: bytes) -> bool:
    """Whether it is an IPv6 address, or looks like one, without the brackets that RFC 7239 asks for."""
    match = _NODE.fullmatch(value)
    return match is not None and match["bare"] is not None


def is_host(value: bytes) -> bool:
    """Whether it is a host, with a port or without."""
    return _HOST.fullmatch(value) is not None


def is_scheme(value: bytes) -> bool:
    """Whether it is the scheme of a request that can come by here."""
    return value.lower() in (b"http", b"https", b"ws", b"wss")
