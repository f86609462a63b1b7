"""What a backend is told about the client: from anybody, and from a proxy that is trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.wire.elements import MAX_ELEMENTS, Field
from distributer.wire.forwarded import MAX_KNOWN, MAX_PASSES, UNTRUSTED, Origin, OriginRules, Origins, without_host
from distributer.wire.node import UNIX, UNKNOWN, TrustedProxies

TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", UNIX])
PROXY, ANYBODY = "10.0.0.1", "192.0.2.1"


def told(
    peer: str, *received: Field, host: bytes | None = b"shop", rules: OriginRules | None = None, is_http11: bool = True
) -> list[Field]:
    """List the fields that a backend gets from us about a request of a peer."""
    origin = Origin(rules or OriginRules(trusted=TRUSTED), peer, b"http")
    lines = origin.lines(host, received, is_http11=is_http11).split(b"\r\n")
    assert lines.pop() == b""
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


def values(fields: list[Field], name: bytes) -> list[bytes]:
    return [value for said, value in fields if said.lower() == name.lower()]


WITH_FORWARDED = OriginRules(trusted=TRUSTED, adds_forwarded=True)

# Anybody.

LIES: list[Field] = [
    (b"x-forwarded-for", b"6.6.6.6"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"bank"),
    (b"forwarded", b"for=6.6.6.6;proto=https;host=bank"),
    (b"x-real-ip", b"6.6.6.6"),
    (b"x-forwarded-port", b"443"),
    (b"x-forwarded-prefix", b"/admin"),
]


@pytest.mark.parametrize("peer", [ANYBODY, "127.0.0.1", "::1", UNKNOWN])
def test_a_peer_that_is_not_trusted_speaks_for_nobody(peer: str) -> None:
    expected = [
        (b"X-Forwarded-For", peer.encode()),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"shop"),
        (b"Via", b"1.1 distributer"),
    ]
    assert told(peer, *LIES) == told(peer) == expected


def test_forwarded_is_told_only_if_the_settings_want_it_and_never_as_a_client_wrote_it() -> None:
    assert values(told(ANYBODY, *LIES, rules=WITH_FORWARDED), b"forwarded") == [b"for=192.0.2.1;host=shop;proto=http"]
    assert values(told("::1", host=b"a:80", rules=WITH_FORWARDED), b"forwarded") == [
        b'for="[::1]";host="a:80";proto=http'
    ]
    assert values(told(PROXY, *LIES), b"forwarded") == []


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        ("::ffff:192.0.2.1", b"192.0.2.1"),
        ("fe80::1%eth0", b"fe80::1"),
        ("2001:DB8::1", b"2001:db8::1"),
        ("testclient", b"unknown"),
        ("6.6.6.6, 7.7.7.7", b"unknown"),
    ],
)
def test_a_peer_is_told_by_its_address(peer: str, shown: bytes) -> None:
    assert values(told(peer), b"x-forwarded-for") == [shown]


@pytest.mark.parametrize("host", [None, b"", b"a b", b'a"b', b"a,b"])
def test_without_a_sound_host_none_is_told(host: bytes | None) -> None:
    fields = told(ANYBODY, host=host, rules=WITH_FORWARDED)
    assert values(fields, b"x-forwarded-host") == []
    assert values(fields, b"forwarded") == [b"for=192.0.2.1;proto=http"]


def test_what_cgi_takes_for_such_a_field_is_one() -> None:
    assert {b"x_forwarded_for", b"x-forwarded_for", b"x_forwarded-proto", b"x_real_ip"} < UNTRUSTED
    lies: list[Field] = [(b"x_forwarded_for", b"6.6.6.6"), (b"x-real_ip", b"6.6.6.6")]
    assert told(PROXY, *lies) == told(PROXY)


# A trusted proxy.


def test_a_trusted_proxy_speaks_for_others() -> None:
    received: list[Field] = [
        (b"x-forwarded-for", b"6.6.6.6, 192.0.2.9"),
        (b"x-forwarded-proto", b"HTTPS"),
        (b"x-forwarded-host", b"www.example:8443"),
        (b"x-real-ip", b"192.0.2.9"),
    ]
    assert told(PROXY, *received) == [
        (b"X-Forwarded-For", b"6.6.6.6, 192.0.2.9, 10.0.0.1"),
        (b"X-Forwarded-Proto", b"https"),
        (b"x-real-ip", b"192.0.2.9"),
        (b"X-Forwarded-Host", b"www.example:8443"),
        (b"Via", b"1.1 distributer"),
    ]


def test_a_trusted_proxy_that_says_nothing_is_the_client() -> None:
    assert told(PROXY) == [
        (b"X-Forwarded-For", b"10.0.0.1"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"shop"),
        (b"Via", b"1.1 distributer"),
    ]


@pytest.mark.parametrize(
    ("name", "said", "shown"),
    [
        (b"x-forwarded-proto", [b"ftp"], b"http"),
        (b"x-forwarded-proto", [b"https,http"], b"http"),
        (b"x-forwarded-proto", [b"https", b"https"], b"http"),
        (b"x-forwarded-proto", [b""], b"http"),
        (b"x-forwarded-proto", [b" wss\t"], b"wss"),
        (b"x-forwarded-host", [b"a b"], b"shop"),
        (b"x-forwarded-host", [b"a,b"], b"shop"),
        (b"x-forwarded-host", [b"a", b"b"], b"shop"),
        (b"x-forwarded-host", [b'"a"'], b"shop"),
        (b"x-forwarded-host", [b"[::1]:80"], b"[::1]:80"),
    ],
)
def test_what_is_unsound_in_a_trusted_proxys_word_is_replaced(name: bytes, said: list[bytes], shown: bytes) -> None:
    assert values(told(PROXY, *((name, value) for value in said)), name) == [shown]


def test_a_malformed_list_is_cut_where_it_is_malformed() -> None:
    received: list[Field] = [(b"x-forwarded-for", b"6.6.6.6, <b>, 192.0.2.9"), (b"forwarded", b'for="a, for=_b')]
    fields = told(PROXY, *received, rules=WITH_FORWARDED)
    assert values(fields, b"x-forwarded-for") == [b"192.0.2.9, 10.0.0.1"]
    assert values(fields, b"forwarded") == [b"for=_b, for=10.0.0.1;host=shop;proto=http"]


def test_a_trusted_proxys_forwarded_is_added_to() -> None:
    said = (b"forwarded", b'for="[2001:db8::1]";proto=https;host=www.example')
    fields = told(PROXY, said, (b"x-forwarded-for", b"192.0.2.9"), rules=WITH_FORWARDED)
    assert values(fields, b"forwarded") == [said[1] + b", for=10.0.0.1;host=shop;proto=http"]
    assert values(fields, b"x-forwarded-for") == [b"192.0.2.9, 10.0.0.1"]


def test_a_trusted_proxy_that_writes_only_x_forwarded_fields_is_put_into_forwarded_too() -> None:
    received: list[Field] = [
        (b"x-forwarded-for", b"6.6.6.6, 2001:db8::9"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"www.example"),
    ]
    assert values(told(PROXY, *received, rules=WITH_FORWARDED), b"forwarded") == [
        b'for=6.6.6.6, for="[2001:db8::9]";host=www.example;proto=https, for=10.0.0.1;host=shop;proto=http'
    ]


def test_a_trusted_unix_socket_has_no_address_to_add() -> None:
    fields = told(UNIX, (b"x-forwarded-for", b"192.0.2.9"), rules=WITH_FORWARDED)
    assert values(fields, b"x-forwarded-for") == [b"192.0.2.9"]
    assert values(fields, b"forwarded")[0].endswith(b", for=unknown;host=shop;proto=http")
    assert values(told(UNIX), b"x-forwarded-for") == [b"unknown"]
    assert values(told(UNIX, *LIES, rules=OriginRules()), b"x-forwarded-for") == [b"unknown"]


def test_the_client_is_whom_the_trusted_name() -> None:
    rules = OriginRules(trusted=TRUSTED)
    said: list[Field] = [(b"x-forwarded-for", b"6.6.6.6, 192.0.2.9, 10.0.0.2")]
    assert Origin(rules, PROXY, b"http").client(said) == "192.0.2.9"
    assert Origin(rules, PROXY, b"http").client([]) == PROXY
    assert Origin(rules, ANYBODY, b"http").client(said) == ANYBODY


# Via.


@pytest.mark.parametrize("peer", [ANYBODY, PROXY])
def test_whoever_passed_a_request_on_stays_in_via(peer: str) -> None:
    received: list[Field] = [(b"via", b"1.0 a, HTTP/2 b (x)"), (b"via", b"bad"), (b"via", b"1.1 c")]
    assert values(told(peer, *received), b"via") == [b"1.0 a, HTTP/2 b, 1.1 c, 1.1 distributer"]


def test_via_tells_the_version_in_which_a_request_came_and_the_name_that_is_set() -> None:
    assert values(told(ANYBODY, is_http11=False), b"via") == [b"1.0 distributer"]
    assert values(told(ANYBODY, rules=OriginRules(via_name=b"edge")), b"via") == [b"1.1 edge"]
    assert b"Via: 2 distributer\r\n" in Origin(OriginRules(), ANYBODY, b"https", b"2").lines(b"a", ())


@pytest.mark.parametrize(
    ("via", "is_loop"),
    [
        ([b"1.1 distributer"] * (MAX_PASSES - 1), False),
        ([b"1.1 distributer"] * MAX_PASSES, True),
        ([b", ".join([b"1.1 other, 1.0 Distributer (x)"] * MAX_PASSES)], True),
        ([b"1.1 other"] * (MAX_ELEMENTS - 1), False),
        ([b"1.1 other"] * MAX_ELEMENTS, True),
        ([b"distributer"] * 100, False),
        ([b"1.1 distributers"] * 20, False),
    ],
)
def test_a_request_that_came_by_here_too_often_is_in_a_loop(via: list[bytes], is_loop: bool) -> None:
    assert Origin(OriginRules(), ANYBODY, b"http").is_loop([(b"via", value) for value in via]) is is_loop


@given(st.integers(0, 5), st.booleans())
def test_a_loop_ends_whoever_else_is_in_it(others: int, is_trusted: bool) -> None:
    """What we send comes back to us: in the end it is seen that it does."""
    origin = Origin(OriginRules(trusted=TRUSTED), PROXY if is_trusted else ANYBODY, b"http")
    received: list[Field] = [(b"via", b"odd")]
    passes = 0
    while not origin.is_loop(received):
        passes += 1
        assert passes <= MAX_PASSES
        lines = origin.lines(b"shop", received).split(b"\r\n")
        via = next(line for line in lines if line.startswith(b"Via: ")).removeprefix(b"Via: ")
        # The others in the circle: sound ones add to the list, odd ones add a field that says nothing.
        received = [(b"via", b", ".join([via, *[b"1.1 other%d (v)" % n for n in range(others)]])), (b"via", b"odd")]
    assert passes > 1


# Bounds, caches.

SAID = st.lists(
    st.tuples(
        st.sampled_from(sorted(UNTRUSTED)), st.binary(max_size=40).map(lambda text: text.translate(None, b"\r\n"))
    ),
    max_size=6,
)


@given(SAID, st.sampled_from([ANYBODY, PROXY, UNIX]), st.sampled_from([OriginRules(), WITH_FORWARDED]))
def test_each_field_is_told_once_whatever_was_said(received: list[Field], peer: str, rules: OriginRules) -> None:
    fields = told(peer, *received, rules=rules)
    names = [name for name, _ in fields if name[:1] == b"X" or name in (b"Via", b"Forwarded")]
    assert len(set(names)) == len(names)
    assert {b"X-Forwarded-For", b"X-Forwarded-Proto", b"Via"} <= set(names)
    assert (b"Forwarded" in names) is rules.adds_forwarded


def test_the_lines_are_made_once_for_requests_of_one_host() -> None:
    origin = Origin(OriginRules(), ANYBODY, b"http")
    first = origin.lines(b"a", ())
    assert origin.lines(b"a", ()) is first
    assert b"X-Forwarded-Host: b\r\n" in origin.lines(b"b", ())
    origin.lines(b"a", [(b"via", b"1.1 x")])
    origin.lines(b"a", (), is_http11=False)
    assert origin.lines(b"b", ()) == Origin(OriginRules(), ANYBODY, b"http").lines(b"b", ())
    assert origin.lines(b"a", ()) == first
    assert b"X-Forwarded-Host" not in origin.lines(None, ())


def test_peers_are_remembered_but_not_for_ever() -> None:
    origins = Origins(OriginRules())
    first = origins.of(ANYBODY, b"http")
    assert origins.of(ANYBODY, b"http") is first
    assert origins.of(ANYBODY, b"https") is not first
    assert origins.of(ANYBODY, b"http", b"2") is not first
    for number in range(MAX_KNOWN):
        assert origins.of(f"10.0.{number >> 8}.{number & 255}", b"http").peer.startswith("10.0.")
    assert origins.of(ANYBODY, b"http") is not first


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        (b"Host: a\r\nA: b\r\n", b"A: b\r\n"),
        (b"A: host: x\r\nhOST:\r\nX-Host: a\r\n", b"A: host: x\r\nX-Host: a\r\n"),
        (b"Host-A: b\r\n", b"Host-A: b\r\n"),
        (b"", b""),
    ],
)
def test_the_host_line_alone_is_taken_out(fields: bytes, left: bytes) -> None:
    assert without_host(fields) == left
