"""Where messages begin and end, however they are split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from distributer.wire.websocket import SERVICE_RESTART, FrameFollower, close_frame

SIZES = st.sampled_from([0, 1, 5, 125, 126, 127, 200, 65_535, 65_536, 70_000])
CUTS = st.lists(st.integers(0, 80_000), max_size=8)


@st.composite
def messages(draw: st.DrawFn, *, is_masked: bool) -> list[bytes]:
    """Draw messages and control frames, serialised by a library that knows nothing of ours."""
    made = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]))
        if kind in (Opcode.PING, Opcode.PONG):
            made.append(Frame(kind, b"\x88" * draw(st.integers(0, 125))).serialize(mask=is_masked))
            continue
        message = b""
        fragments = draw(st.integers(1, 3))
        for number in range(1, fragments + 1):
            opcode = kind if number == 1 else Opcode.CONT
            frame = Frame(opcode, b"\x88" * draw(SIZES), fin=number == fragments).serialize(mask=is_masked)
            is_compressed = draw(st.booleans())
            message += bytes((frame[0] | 0x40,)) + frame[1:] if is_compressed else frame
            if number < fragments and draw(st.booleans()):
                message += Frame(Opcode.PING, b"within").serialize(mask=is_masked)
        made.append(message)
    return made


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {len(data)})
    parts = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [part for part in parts if part]


@pytest.mark.parametrize("is_masked", [False, True])
@given(data=st.data())
def test_it_is_between_messages_exactly_at_their_ends(is_masked: bool, data: st.DataObject) -> None:
    made = data.draw(messages(is_masked=is_masked))
    ends = {sum(map(len, made[:count])) for count in range(len(made) + 1)}
    follower = FrameFollower(is_masked=is_masked)
    at = 0
    for part in cut(b"".join(made), data.draw(CUTS)):
        assert follower.follow(part) == len(part)
        at += len(part)
        assert follower.is_between is (at in ends)
    assert not follower.is_closed
    assert not follower.is_lost


@pytest.mark.parametrize("is_masked", [False, True])
@given(data=st.data())
def test_the_next_boundary_is_found_wherever_it_stands(is_masked: bool, data: st.DataObject) -> None:
    made = data.draw(messages(is_masked=is_masked))
    whole = b"".join(made)
    ends = [sum(map(len, made[:count])) for count in range(len(made) + 1)]
    start = data.draw(st.integers(0, len(whole)))
    follower = FrameFollower(is_masked=is_masked)
    follower.follow(whole[:start])
    at = start
    for part in cut(whole[start:], data.draw(CUTS)) or [b""]:
        taken = follower.follow(part, to_boundary=True)
        at += taken
        if follower.is_between:
            break
        assert taken == len(part)
    assert at == min(end for end in ends if end >= start)


@pytest.mark.parametrize("is_masked", [False, True])
@given(data=st.data())
def test_a_close_frame_is_seen_when_it_is_whole(is_masked: bool, data: st.DataObject) -> None:
    made = data.draw(messages(is_masked=is_masked))
    close = close_frame(SERVICE_RESTART, is_masked=is_masked)
    whole = b"".join(made) + close
    follower = FrameFollower(is_masked=is_masked)
    for part in cut(whole[:-1], data.draw(CUTS)):
        follower.follow(part)
    seen = [follower.is_closed]
    for part in (whole[-1:], b"whatever comes behind it"):
        follower.follow(part)
        seen.append(follower.is_closed)
    assert seen == [False, True, True]
    assert not follower.is_lost


@pytest.mark.parametrize(
    ("is_masked", "data"),
    [
        (False, b"\x83\x00"),  # an opcode that is none
        (False, b"\x8b\x00"),
        (True, b"\x81\x00"),  # from a client without a mask
        (False, b"\x81\x80\x00\x00\x00\x00"),  # from a server with one
        (False, b"\x09\x00"),  # a ping in fragments
        (False, b"\x89\x7e\x00\x7e" + b"x" * 126),  # a ping that is too long
        (False, b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
def test_what_is_no_frame_is_known_for_it_and_never_a_boundary(is_masked: bool, data: bytes) -> None:
    for size in (1, 2, len(data)):
        follower = FrameFollower(is_masked=is_masked)
        for start in range(0, len(data), size):
            follower.follow(data[start : start + size])
        assert follower.is_lost
        assert not follower.is_between
        assert follower.follow(b"\x81\x00", to_boundary=True) == 2


@given(st.binary(max_size=40), CUTS)
def test_any_bytes_at_all_are_followed_alike_however_they_are_split(data: bytes, places: list[int]) -> None:
    whole, parts = FrameFollower(is_masked=False), FrameFollower(is_masked=False)
    whole.follow(data)
    for part in cut(data, places):
        parts.follow(part)
    assert repr(parts) == repr(whole)


@pytest.mark.parametrize("is_masked", [False, True])
def test_our_close_frame_is_one_to_others(is_masked: bool) -> None:
    reader = Protocol(Side.SERVER if is_masked else Side.CLIENT)
    reader.receive_data(close_frame(SERVICE_RESTART, is_masked=is_masked))
    assert reader.close_rcvd is not None
    assert (reader.close_rcvd.code, reader.close_rcvd.reason) == (1012, "")
    assert reader.parser_exc is None
