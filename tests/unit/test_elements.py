"""Lists to which each proxy adds an element: read from the right, as far as they are sound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.wire.elements import (
    MAX_ELEMENTS,
    MAX_LIST_BYTES,
    Field,
    addresses_in,
    client_of,
    forwarded_element,
    forwarded_in,
    is_via_name,
    vias_in,
)
from distributer.wire.node import UNIX, TrustedProxies


def fields(name: bytes, *values: bytes) -> list[Field]:
    return [(name, value) for value in values]


# X-Forwarded-For.

ADDRESSES = [
    # values -> kept
    ([b"1.1.1.1"], [b"1.1.1.1"]),
    ([b"1.1.1.1, 2.2.2.2"], [b"1.1.1.1", b"2.2.2.2"]),
    ([b"1.1.1.1,2.2.2.2:80 ,\t[::1]:443"], [b"1.1.1.1", b"2.2.2.2:80", b"[::1]:443"]),
    ([b"1.1.1.1", b"2.2.2.2, ::1"], [b"1.1.1.1", b"2.2.2.2", b"::1"]),
    ([b", ,1.1.1.1,,", b""], [b"1.1.1.1"]),
    ([b"unknown, _x"], [b"unknown", b"_x"]),
    # Who wrote what stands left of a malformed element, nobody knows.
    ([b"6.6.6.6, unix:"], []),
    ([b"6.6.6.6, <script>, 1.1.1.1, 2.2.2.2"], [b"1.1.1.1", b"2.2.2.2"]),
    ([b"6.6.6.6", b"two words", b"1.1.1.1"], [b"1.1.1.1"]),
    ([b'"6.6.6.6, 1.1.1.1'], [b"1.1.1.1"]),
    ([b'"6.6.6.6", 1.1.1.1'], [b"1.1.1.1"]),
    ([b'6.6.6.6, ", 1.1.1.1'], [b"1.1.1.1"]),
]


@pytest.mark.parametrize(("values", "kept"), ADDRESSES, ids=repr)
def test_addresses_are_kept_up_to_the_first_from_the_right_that_is_malformed(
    values: list[bytes], kept: list[bytes]
) -> None:
    assert (
        addresses_in([*fields(b"x-forwarded-for", *values), (b"via", b"1.1 x"), (b"forwarded", b"for=9.9.9.9")]) == kept
    )


def test_of_a_list_beyond_the_bounds_the_right_end_is_kept() -> None:
    many = [b"10.0.0.%d" % n for n in range(200)]
    assert addresses_in(fields(b"x-forwarded-for", b", ".join(many))) == many[-MAX_ELEMENTS:]
    long = [b"_%b%d" % (b"a" * 62, n % 10) for n in range(200)]
    kept = addresses_in(fields(b"x-forwarded-for", *long))
    assert kept == long[-len(kept) :]
    assert MAX_LIST_BYTES - 70 < len(b"".join(kept)) <= MAX_LIST_BYTES
    assert addresses_in(fields(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2", b"," * MAX_LIST_BYTES)) == []


@pytest.mark.parametrize("divided", [True, False])
def test_an_element_that_the_bound_cuts_is_left_out(divided: bool) -> None:
    for name, element, read in ((b"forwarded", b"for=_abc", forwarded_in), (b"via", b"1.1 abc", vias_in)):
        for cut in range(len(element)):
            rest = b"," + b" " * (MAX_LIST_BYTES - 1 - len(element) - cut)
            # The last `cut` bytes of the first element are within the bound.
            values = [element + rest, element] if divided else [element + rest + element]
            assert len(read(fields(name, *values))) == 1, cut
        assert len(read(fields(name, element, b" " * (MAX_LIST_BYTES - len(element))))) == 1


TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", UNIX])
CLIENTS = [
    # peer, X-Forwarded-For -> client
    ("192.0.2.1", [b"6.6.6.6"], "192.0.2.1"),
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", [b"192.0.2.1"], "192.0.2.1"),
    ("10.0.0.1", [b"192.0.2.1:5555"], "192.0.2.1"),
    ("10.0.0.1", [b"6.6.6.6, 192.0.2.1"], "192.0.2.1"),
    ("10.0.0.1", [b"6.6.6.6, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
    ("10.0.0.1", [b"6.6.6.6", b"192.0.2.1", b"10.0.0.2"], "192.0.2.1"),
    ("10.0.0.1", [b"192.0.2.1, [fd00::1]:80"], "192.0.2.1"),
    ("10.0.0.1", [b"192.0.2.1, ::ffff:10.0.0.3"], "192.0.2.1"),
    ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ("10.0.0.1", [b"6.6.6.6, unknown, 10.0.0.2"], "unknown"),
    ("10.0.0.1", [b"6.6.6.6, unix"], "10.0.0.1"),
    ("10.0.0.1", [b"6.6.6.6, garbage, 10.0.0.2"], "10.0.0.2"),
    ("10.0.0.1", [b"6.6.6.6, "], "6.6.6.6"),
    ("fd00::1", [b"2001:DB8::1"], "2001:db8::1"),
    (UNIX, [b"192.0.2.1"], "192.0.2.1"),
    (UNIX, [], UNIX),
]


@pytest.mark.parametrize(("peer", "values", "client"), CLIENTS, ids=repr)
def test_the_client_is_the_last_on_the_way_who_is_no_trusted_proxy(peer: str, values: list[bytes], client: str) -> None:
    assert client_of(peer, fields(b"x-forwarded-for", *values), TRUSTED) == client
    assert client_of(peer, fields(b"x-forwarded-for", *values), TrustedProxies()) == peer


@given(st.lists(st.sampled_from([b"6.6.6.6", b"10.0.0.9", b"unknown", b"garbage", b'"', b"", b"[::1", b"1.1.1.1, x"])))
def test_nothing_a_client_writes_changes_who_it_is(written: list[bytes]) -> None:
    """The proxy in front has added the client's address; the client wrote all that stands left of it."""
    received = fields(b"x-forwarded-for", *written, b"192.0.2.1")
    assert client_of("10.0.0.1", received, TRUSTED) == "192.0.2.1"
    joined = fields(b"x-forwarded-for", b", ".join([*written, b"192.0.2.1"]))
    assert client_of("10.0.0.1", joined, TRUSTED) == "192.0.2.1"


# Forwarded.

SOUND = [
    b"for=192.0.2.1",
    b"For=192.0.2.1",
    b'for="192.0.2.1:8080"',
    b'for="[2001:db8::1]"',
    b'for="[2001:db8::1]:443"',
    b"for=unknown",
    b"for=_hidden",
    b'for="_hidden:_p"',
    b"for=192.0.2.1;proto=https;by=203.0.113.43",
    b'for=192.0.2.1;host="a.example:8080";proto=HTTP',
    b"proto=http;for=_a",
    b"for=_a;;proto=http;",
    b"for=_a ; proto=http",
    b'for=_a;more="any, thing; \\"at\\" all"',
    b'for=_a;more=""',
    b'for="\\_\\a"',
]
UNSOUND = [
    b"192.0.2.1",
    b"for",
    b"for=",
    b"for = 192.0.2.1",
    b"for=192.0.2.1:8080",  # RFC 7239 section 6: a colon stands in quotes only
    b"for=[2001:db8::1]",
    b"for=2001:db8::1",
    b'for="2001:db8::1"',
    b'for="192.0.2.256"',
    b"for=localhost",
    b'for=""',
    b"for=_a;for=_b",
    b"for=_a;FOR=_a",
    b"for=_a proto=http",
    b"for=_a;proto=ftp",
    b'for=_a;host="a b"',
    b"for=_a;by=here",
    b'for="_a',
    b'for=_a"',
    b'for="_a\\"',
    b"f\xe9=_a",
    b"for=_\xe9",
    b'for=_a;x="\x7f"',
    b";",
]


@pytest.mark.parametrize("element", SOUND)
def test_a_sound_element_of_forwarded_is_kept_as_it_came(element: bytes) -> None:
    assert forwarded_in(fields(b"forwarded", element)) == [element]
    assert forwarded_in(fields(b"forwarded", b"for=_l, " + element + b" ,\tfor=_r")) == [b"for=_l", element, b"for=_r"]


@pytest.mark.parametrize("element", UNSOUND)
def test_an_unsound_element_of_forwarded_goes_and_all_that_stands_left_of_it(element: bytes) -> None:
    assert forwarded_in(fields(b"forwarded", element)) == []
    assert forwarded_in(fields(b"forwarded", b"for=_l, " + element + b", for=_r")) == [b"for=_r"]
    assert forwarded_in(fields(b"forwarded", b"for=_l", element, b'for=_r;x="a,b"', b"for=_s")) == [
        b'for=_r;x="a,b"',
        b"for=_s",
    ]


TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
TOKENS = st.text(st.sampled_from("abzAZ019!#$%&'*+-.^_`|~"), min_size=1, max_size=6)


@st.composite
def element(draw: st.DrawFn) -> bytes:
    """Make an element of Forwarded that says who, and some other things about which nothing is known."""
    pairs = [f"for=_{draw(st.integers(0, 99))}"]
    for number, text in enumerate(draw(st.lists(TOKENS | TEXT, max_size=3))):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        pairs.append(f'x{number}="{escaped}"')
    return ";".join(pairs).encode()


@given(st.lists(st.lists(element(), min_size=1, max_size=4), max_size=3))
def test_a_list_of_sound_elements_is_read_whole_however_it_is_divided(lists: list[list[bytes]]) -> None:
    received = fields(b"forwarded", *(b", ".join(elements) for elements in lists))
    assert forwarded_in(received) == [element for elements in lists for element in elements]


@given(st.text(st.sampled_from('",\\;= fora_1'), max_size=30), element())
def test_whatever_a_client_wrote_the_element_of_the_peer_is_read(written: str, added: bytes) -> None:
    received = fields(b"forwarded", written.encode() + b", " + added)
    assert forwarded_in(received)[-1:] == [added]


@given(st.binary(max_size=60))
def test_no_bytes_are_too_odd_to_be_left_out(data: bytes) -> None:
    for name, read in ((b"forwarded", forwarded_in), (b"x-forwarded-for", addresses_in), (b"via", vias_in)):
        once = read(fields(name, data))
        kept = [part if isinstance(part, bytes) else part[0] for part in once]
        assert read(fields(name, b", ".join(kept))) == once, "what is kept is sound"


@pytest.mark.parametrize(
    ("node", "host", "proto", "written"),
    [
        (b"192.0.2.1", None, None, b"for=192.0.2.1"),
        (b"192.0.2.1:80", b"a.example", b"http", b'for="192.0.2.1:80";host=a.example;proto=http'),
        (b"2001:db8::1", b"a:8080", b"https", b'for="[2001:db8::1]";host="a:8080";proto=https'),
        (b"[2001:db8::1]:80", b"[::1]", b"ws", b'for="[2001:db8::1]:80";host="[::1]";proto=ws'),
        (b"unknown", None, b"http", b"for=unknown;proto=http"),
        (b"_x:_y", None, None, b'for="_x:_y"'),
    ],
)
def test_an_element_of_forwarded_quotes_what_is_no_token(
    node: bytes, host: bytes | None, proto: bytes | None, written: bytes
) -> None:
    assert forwarded_element(node, host, proto) == written
    assert forwarded_in(fields(b"forwarded", written)) == [written]


# Via.

VIAS = [
    ([b"1.1 a"], [(b"1.1 a", b"a")]),
    (
        [b"1.0 fred, 1.1 p.example.net:8080"],
        [(b"1.0 fred", b"fred"), (b"1.1 p.example.net:8080", b"p.example.net:8080")],
    ),
    ([b"HTTP/2 [::1]:80\t", b"2\t b"], [(b"HTTP/2 [::1]:80", b"[::1]:80"), (b"2\t b", b"b")]),
    ([b"1.1 a (one, (two)), 1.1 b (c \\) d)"], [(b"1.1 a", b"a"), (b"1.1 b", b"b")]),
    ([b"1.1 a, 1.1, bad element x, b, 1.1 c"], [(b"1.1 a", b"a"), (b"1.1 c", b"c")]),
    ([b"1.1 a, 1.1 b (open, 1.1 c", b"1.1 d"], [(b"1.1 a", b"a"), (b"1.1 b", b"b"), (b"1.1 d", b"d")]),
    ([b"1.1 a), 1.1 b"], [(b"1.1 b", b"b")]),
    ([b"", b" , ", b"\xe9 a", b"1.1 \xe9", b'1.1 "a"'], []),
]


@pytest.mark.parametrize(("values", "kept"), VIAS, ids=repr)
def test_sound_elements_of_via_are_kept_without_their_comments(
    values: list[bytes], kept: list[tuple[bytes, bytes]]
) -> None:
    assert vias_in([*fields(b"via", *values), (b"forwarded", b"for=_a")]) == kept


@pytest.mark.parametrize(("name", "is_one"), [(b"a", True), (b"shop-1.eu", True), (b"", False), (b"a b", False)])
def test_a_name_in_via_is_a_token(name: bytes, is_one: bool) -> None:
    assert is_via_name(name) is is_one
