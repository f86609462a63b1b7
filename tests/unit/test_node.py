"""Who is on the way: addresses as proxies spell them, and which of them are believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.wire.node import UNIX, UNKNOWN, TrustedProxies, is_host, is_scheme, name_of, plain

TRUST = [
    # trusted, peer, believed
    ([], "127.0.0.1", False),
    ([], UNIX, False),
    (["127.0.0.1"], "127.0.0.1", True),
    (["127.0.0.1"], "127.0.0.2", False),
    (["10.0.0.0/8"], "10.255.255.255", True),
    (["10.0.0.0/8"], "11.0.0.0", False),
    (["10.0.0.0/8"], "::a00:1", False),
    (["2001:db8::/32"], "2001:db8::1", True),
    (["2001:db8::/32"], "2001:DB8:0:0::1", True),
    (["2001:db8::/32"], "2001:db9::1", False),
    (["0.0.0.0/0", "::/0"], "::1", True),
    (["0.0.0.0/0"], "::1", False),
    (["0.0.0.0/0", "::/0"], UNIX, False),
    (["0.0.0.0/0", "::/0"], UNKNOWN, False),
    (["0.0.0.0/0", "::/0"], "_hidden", False),
    ([UNIX], UNIX, True),
    ([UNIX], "127.0.0.1", False),
    (["192.0.2.1", UNIX, "10.0.0.0/8"], "10.1.1.1", True),
]


@pytest.mark.parametrize(("trusted", "peer", "is_believed"), TRUST)
def test_only_listed_proxies_are_believed(trusted: list[str], peer: str, is_believed: bool) -> None:
    assert (peer in TrustedProxies(trusted)) is is_believed


@pytest.mark.parametrize(
    "entry", ["", "*", "localhost", "10.0.0.1/8", "10.0.0.0/33", "1.2.3", "[::1]", "::ffff:0:0/96"]
)
def test_what_names_no_proxies_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ValueError) as refusal:
        TrustedProxies(["127.0.0.1", entry])
    assert str(refusal.value).startswith(repr(entry))


@pytest.mark.parametrize(
    ("address", "spelled"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:0201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.01", None),
        ("testclient", None),
        ("", None),
    ],
)
def test_an_address_has_one_spelling(address: str, spelled: str | None) -> None:
    assert plain(address) == spelled


NODES = [
    (b"192.0.2.1", "192.0.2.1"),
    (b"192.0.2.1:8080", "192.0.2.1"),
    (b"[2001:db8::1]", "2001:db8::1"),
    (b"[2001:DB8::1]:443", "2001:db8::1"),
    (b"2001:db8::1", "2001:db8::1"),
    (b"::ffff:192.0.2.1", "192.0.2.1"),
    (b"unknown", "unknown"),
    (b"_hidden", "_hidden"),
    (b"_a.b-c_d:_port", "_a.b-c_d"),
    (b"unknown:80", "unknown"),
]
NO_NODES = [
    b"",
    b"localhost",
    b"unix:",
    b"192.0.2",
    b"192.0.2.256",
    b"192.0.2.1:",
    b"192.0.2.1:port",
    b"192.0.2.1:123456",
    b"[2001:db8::1",
    b"[192.0.2.1]x",
    b"[]",
    b"2001:db8::1::2",
    b"2001:db8::1]:80",
    b"fe80::1%eth0",
    b"Unknown",
    b"_",
    b"_" + b"a" * 65,
    b"_a b",
    b"_\xe9",
    b"192.0.2.1\x00",
    b"\xd9\xa1.1.1.1",
    b":" * 4_000,
]


@pytest.mark.parametrize(("node", "name"), NODES)
def test_a_node_is_named_without_its_port(node: bytes, name: str) -> None:
    assert name_of(node) == name


@pytest.mark.parametrize("node", NO_NODES, ids=lambda node: repr(node)[:30])
def test_what_is_no_node_names_nobody(node: bytes) -> None:
    assert name_of(node) is None


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.none() | st.integers(0, 65_535))
def test_any_address_is_named_with_a_port_or_without(address: object, port: int | None) -> None:
    text = str(address)
    if port is not None:
        text = f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
    assert name_of(text.encode()) == plain(str(address))


@given(st.binary(max_size=50))
def test_no_bytes_are_too_odd_to_be_read(data: bytes) -> None:
    name = name_of(data)
    assert name is None or name.isprintable()


@pytest.mark.parametrize("host", [b"a", b"a.example:80", b"192.0.2.1", b"[::1]", b"[::1]:8080", b"a_b-c~", b"%61"])
def test_a_host_is_one(host: bytes) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [b"", b":80", b"a b", b"a,b", b"a;b", b'a"', b"a/b", b"u@a", b"a:", b"a:b", b"[::1", b"::1", b"\xe9", b"a\r\n"],
)
def test_what_is_no_host_is_not(host: bytes) -> None:
    assert not is_host(host)


@pytest.mark.parametrize(("scheme", "is_one"), [(b"http", True), (b"HTTPS", True), (b"wss", True), (b"ftp", False)])
def test_schemes_are_those_of_requests(scheme: bytes, is_one: bool) -> None:
    assert is_scheme(scheme) is is_one
