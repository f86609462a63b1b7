"""Two ends joined: what passes, what is held back, and how it ends."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from distributer.clock import Clock
from distributer.forwarding.core import ForwardingCore, ForwardingOptions
from distributer.forwarding.limits import ClientLimits, UpstreamLimits
from distributer.forwarding.tunnel import CLOSE_WAIT_S, Direction, Tunnel
from distributer.model import Backend
from distributer.state.memory import MemoryStore
from distributer.wire.websocket import close_frame

IDLE_S, HALF_IDLE_S, STUCK_S = 100.0, 20.0, 30.0


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeEnd:
    """Notes what it is told to do."""

    def __init__(self, *, is_writable: bool = True) -> None:
        self.is_writable = is_writable
        self.outgoing: Direction | None = None
        self.got = b""
        self.told: list[str] = []
        self.unsent = 0
        self.has_failed = False

    def join(self, outgoing: Direction, incoming: Direction) -> None:
        self.outgoing = outgoing

    def start(self) -> None: ...

    def write(self, data: bytes) -> None:
        assert "eof" not in self.told
        self.got += data

    def write_eof(self) -> None:
        self.told.append("eof")

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")

    def reset(self) -> None:
        self.told.append("reset")


class Site:
    """A tunnel between two fake ends, and a clock driven by hand."""

    def __init__(self, *, is_websocket: bool, client: FakeEnd | None = None, tunnel_drain_s: float = 10.0) -> None:
        self.time = Time()
        self.clock = Clock(self.time)
        options = ForwardingOptions(
            clients=ClientLimits(idle_timeout_s=STUCK_S),
            limits=UpstreamLimits(idle_timeout_s=HALF_IDLE_S),
            tunnel_idle_timeout_s=IDLE_S,
            tunnel_drain_s=tunnel_drain_s,
        )
        backend = Backend.from_url("http://127.0.0.1:1")
        self.core = ForwardingCore([backend], MemoryStore(), options, self.clock)
        self.client = client or FakeEnd()
        self.backend = FakeEnd()
        self.tunnel = Tunnel(self.core, self.client, self.backend, is_websocket=is_websocket)
        self.up, self.down = self.tunnel.up, self.tunnel.down
        self.tunnel.start(b"", b"")

    def wait(self, seconds: float) -> None:
        self.time.now += seconds
        self.clock.tick()

    @property
    def open_tunnels(self) -> int:
        assert len(self.core.tunnels) == self.core.metrics.tunnels_open
        return len(self.core.tunnels)


def masked(opcode: Opcode, data: bytes = b"") -> bytes:
    return Frame(opcode, data).serialize(mask=True)


def plain(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=False)


def as_read_by(side: Side, data: bytes) -> tuple[list[bytes], int | None]:
    """What a WebSocket library reads: the payloads of its frames, and the close code. Nothing may be malformed."""
    reader = Protocol(side)
    reader.receive_data(data)
    assert reader.parser_exc is None
    frames = [frame for frame in reader.events_received() if isinstance(frame, Frame)]
    code = reader.close_rcvd.code if reader.close_rcvd is not None else None
    return [bytes(frame.data) for frame in frames if frame.opcode is not Opcode.CLOSE], code


# What passes.


def test_bytes_pass_both_ways_unread_early_ones_first_and_are_counted() -> None:
    site = Site(is_websocket=False)
    tunnel = Tunnel(site.core, client := FakeEnd(), backend := FakeEnd(), is_websocket=False)
    tunnel.start(b"early", b"rest")
    tunnel.up.received(b"+more")
    tunnel.down.received(b"+answer")
    assert (backend.got, client.got) == (b"early+more", b"rest+answer")
    metrics = site.core.metrics
    assert (metrics.tunnels, metrics.tunnels_open) == (2, 2)
    assert (metrics.tunnel_bytes_up, metrics.tunnel_bytes_down) == (10, 11)


def test_an_end_that_takes_no_more_holds_the_other_back() -> None:
    site = Site(is_websocket=True)
    site.down.pause()
    assert (site.backend.told, site.client.told) == (["pause"], [])
    site.down.resume()
    assert site.backend.told == ["pause", "resume"]


def test_an_end_that_took_no_more_before_it_was_joined_holds_the_other_back_from_the_start() -> None:
    site = Site(is_websocket=False, client=FakeEnd(is_writable=False))
    assert site.backend.told == ["pause"]


# How it ends.


def test_the_end_of_one_direction_is_passed_on_and_the_other_goes_on() -> None:
    site = Site(is_websocket=False)
    site.up.ended()
    assert (site.backend.told, site.client.told) == (["eof"], [])
    site.down.received(b"late answer")
    assert site.client.got == b"late answer"
    site.down.ended()
    assert (site.client.told, site.backend.told) == (["close"], ["eof", "close"])


def test_the_loss_of_one_end_closes_the_other_and_the_tunnel_is_gone_when_both_are() -> None:
    site = Site(is_websocket=True)
    site.up.lost()
    assert (site.backend.told, site.open_tunnels) == (["close"], 1)
    site.down.lost()
    assert site.open_tunnels == 0


def test_an_end_that_never_takes_the_last_bytes_is_cut_in_time() -> None:
    site = Site(is_websocket=False)
    site.up.lost()
    site.wait(HALF_IDLE_S - 1)
    assert "reset" not in site.backend.told
    site.wait(2)
    assert site.backend.told[-1] == "reset"


def test_silence_ends_a_tunnel_and_any_byte_either_way_is_none() -> None:
    site = Site(is_websocket=False)
    for direction in (site.up, site.down, site.up):
        site.wait(IDLE_S - 2)
        direction.received(b"x")
    site.wait(IDLE_S - 2)
    assert (site.client.told, site.backend.told) == ([], [])
    site.wait(3)
    assert (site.client.told, site.backend.told) == (["reset"], ["reset"])


def test_a_half_closed_tunnel_may_be_silent_for_less_long() -> None:
    site = Site(is_websocket=True)
    site.up.ended()
    site.wait(HALF_IDLE_S + 1)
    assert (site.client.told, site.backend.told) == (["reset"], ["eof", "reset"])


def test_a_silent_websocket_is_closed_with_1001() -> None:
    site = Site(is_websocket=True)
    site.wait(IDLE_S + 1)
    assert as_read_by(Side.CLIENT, site.client.got) == ([], 1001)
    assert as_read_by(Side.SERVER, site.backend.got) == ([], 1001)


def test_the_breaking_of_one_end_resets_the_other() -> None:
    site = Site(is_websocket=False)
    site.down.lost(by_error=True)
    assert site.client.told == ["reset"]


def test_an_end_that_breaks_behind_its_end_has_sent_the_whole() -> None:
    half_closed, websocket = Site(is_websocket=False), Site(is_websocket=True)
    half_closed.down.ended()
    websocket.down.received(close_frame(1000, is_masked=False))
    for site in (half_closed, websocket):
        site.down.lost(by_error=True)
        assert site.client.told[-1] == "close"


def test_an_end_that_takes_nothing_for_too_long_is_cut_and_any_progress_is_some() -> None:
    site = Site(is_websocket=True)
    site.backend.unsent = 100
    site.up.pause()
    for unsent in (99, 98):
        site.wait(STUCK_S - 2)
        site.backend.unsent = unsent
        site.wait(1.5)
    site.wait(STUCK_S - 2)
    assert "reset" not in site.client.told + site.backend.told
    site.wait(3)
    assert (site.client.told[-1], site.backend.told[-1]) == ("reset", "reset")


def test_an_end_that_takes_more_again_is_not_stuck() -> None:
    site = Site(is_websocket=False)
    site.up.pause()
    site.wait(STUCK_S - 2)
    site.up.resume()
    site.wait(10)
    assert (site.client.told, site.backend.told) == (["pause", "resume"], [])


def test_an_end_that_breaks_while_it_is_held_back_is_found() -> None:
    site = Site(is_websocket=False)
    site.up.pause()
    site.client.has_failed = True
    site.wait(1.5)
    assert (site.client.told, site.backend.told) == (["pause", "reset"], ["reset"])


# The proper close of a WebSocket.


def test_websockets_are_closed_a_while_into_the_drain_and_other_protocols_are_not() -> None:
    for is_websocket in (True, False):
        site = Site(is_websocket=is_websocket, tunnel_drain_s=10)
        site.wait(50)
        site.up.received(b"")  # no silence
        site.core.start_draining()
        site.wait(9)
        assert site.client.got == site.backend.got == b""
        site.wait(2)
        if is_websocket:
            assert as_read_by(Side.CLIENT, site.client.got) == ([], 1012)
            assert as_read_by(Side.SERVER, site.backend.got) == ([], 1012)
        else:
            assert site.client.got == site.backend.got == b""
            assert site.client.told == site.backend.told == []


def test_a_tunnel_that_opens_late_in_the_drain_is_closed_as_well() -> None:
    site = Site(is_websocket=True, tunnel_drain_s=10)
    site.core.start_draining()
    site.wait(20)
    Tunnel(site.core, client := FakeEnd(), FakeEnd(), is_websocket=True).start(b"", b"")
    site.wait(2)
    assert as_read_by(Side.CLIENT, client.got) == ([], 1012)


def test_each_end_is_closed_when_its_close_frame_has_come_back() -> None:
    site = Site(is_websocket=True)
    site.tunnel.close(1012)
    told = (site.client.got, site.backend.got)
    site.up.received(masked(Opcode.TEXT, b"sent before it knew") + close_frame(1012, is_masked=True))
    assert ("close" in site.client.told, "close" in site.backend.told) == (True, False)
    site.down.received(close_frame(1012, is_masked=False))
    assert "close" in site.backend.told
    assert (site.client.got, site.backend.got) == told, "nothing is passed on behind a Close frame"
    site.up.lost()
    site.down.lost()
    assert site.open_tunnels == 0


def test_ends_whose_close_frames_do_not_come_back_are_cut() -> None:
    site = Site(is_websocket=True)
    site.tunnel.close(1012)
    site.wait(CLOSE_WAIT_S - 1)
    assert "abort" not in site.client.told + site.backend.told
    site.wait(2)
    assert (site.client.told[-1], site.backend.told[-1]) == ("abort", "abort")


@pytest.mark.parametrize("place", range(1, 12))
def test_a_close_frame_waits_for_the_end_of_the_frame_under_way(place: int) -> None:
    site = Site(is_websocket=True)
    down, up = plain(Opcode.TEXT, b"hello") + plain(Opcode.TEXT, b"more"), masked(Opcode.BINARY, b"bytes")
    first = len(plain(Opcode.TEXT, b"hello"))
    site.down.received(down[:place])
    site.up.received(up[: min(place, len(up) - 1)])
    site.tunnel.close(1012)
    site.down.received(down[place:])
    site.up.received(up[min(place, len(up) - 1) :])
    payloads = [b"hello"] if place <= first else [b"hello", b"more"]
    assert as_read_by(Side.CLIENT, site.client.got) == (payloads, 1012)
    assert as_read_by(Side.SERVER, site.backend.got) == ([b"bytes"], 1012)


def test_a_close_frame_waits_for_the_last_fragment_of_a_message() -> None:
    site = Site(is_websocket=True)
    site.down.received(plain(Opcode.TEXT, b"first part", fin=False))
    site.tunnel.close(1012)
    site.down.received(plain(Opcode.PING) + plain(Opcode.CONT, b"second part", fin=False))
    site.down.received(plain(Opcode.CONT, b"last part") + plain(Opcode.TEXT, b"next"))
    assert as_read_by(Side.CLIENT, site.client.got) == ([b"first part", b"", b"second part", b"last part"], 1012)


def test_a_side_that_has_closed_already_gets_no_second_close_frame() -> None:
    site = Site(is_websocket=True)
    own = close_frame(1000, is_masked=False)
    site.down.received(own)
    site.tunnel.close(1012)
    assert site.client.got == own
    assert as_read_by(Side.SERVER, site.backend.got) == ([], 1012)
    assert "close" in site.backend.told, "its Close frame went both ways"


def test_what_is_no_websocket_after_all_gets_nothing_put_into_it() -> None:
    site = Site(is_websocket=True)
    site.down.received(b"\xff\xffgarbage")
    site.up.received(b"\x00\x00garbage")
    site.tunnel.close(1012)
    assert (site.client.got, site.backend.got) == (b"\xff\xffgarbage", b"\x00\x00garbage")
    site.wait(CLOSE_WAIT_S + 1)
    assert (site.client.told, site.backend.told) == (["reset"], ["reset"])


def test_a_slow_client_that_is_told_does_not_hold_back_the_backends_close_frame() -> None:
    site = Site(is_websocket=True)
    site.down.pause()
    site.tunnel.close(1012)
    assert site.backend.told == ["pause", "resume"]
    site.down.pause()
    assert site.backend.told == ["pause", "resume"]
