"""What h11 makes of bytes: an independent reader, laxer than the letter in places, stricter in few."""

from __future__ import annotations

from dataclasses import dataclass, field

import h11

MAX_BYTES = 1 << 20


@dataclass
class Reading:
    """A message as h11 read it."""

    start: tuple[bytes, ...]
    """Method and target, or the status."""
    fields: list[tuple[bytes, bytes]]
    """Names in lower case."""
    body: bytes = b""
    is_complete: bool = False

    def values(self, name: bytes) -> tuple[bytes, ...]:
        """List the values of all fields of that name, in order."""
        return tuple(value for key, value in self.fields if key == name)


@dataclass
class Readings:
    """All that h11 read, and what it refused, if it did."""

    messages: list[Reading] = field(default_factory=list)
    refused: str = ""

    @property
    def complete(self) -> list[Reading]:
        """The messages that are complete."""
        return [message for message in self.messages if message.is_complete]


def requests_by_h11(data: bytes) -> Readings:
    """Read a client's bytes, as a server that answers each request would."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_BYTES)
    connection.receive_data(data)
    readings = Readings()
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                readings.messages.append(Reading((event.method, event.target), list(event.headers)))
            elif isinstance(event, h11.Data):
                readings.messages[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                readings.messages[-1].is_complete = True
                connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return readings
                connection.start_next_cycle()
            else:
                return readings
    except h11.ProtocolError as error:
        readings.refused = str(error)
        return readings


def answer_by_h11(data: bytes, method: bytes = b"GET") -> Readings:
    """Read a backend's bytes up to the first final answer's end; behind them its connection is closed."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_BYTES)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "case.test")]))
    connection.send(h11.EndOfMessage())
    if data:
        connection.receive_data(data)
    connection.receive_data(b"")
    readings = Readings()
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.InformationalResponse | h11.Response):
                readings.messages.append(Reading((b"%d" % event.status_code,), list(event.headers)))
            elif isinstance(event, h11.Data):
                readings.messages[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                readings.messages[-1].is_complete = True
                return readings
            else:
                return readings
    except h11.ProtocolError as error:
        readings.refused = str(error)
        return readings
