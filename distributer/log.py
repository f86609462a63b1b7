"""How a log line looks: for people `08:15:02 info  replica 1: message  key=value`, for machines one JSON object."""

from __future__ import annotations

import logging
import logging.config
import sys
from typing import Literal

import structlog

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}


def configure(level: str = "info", style: Literal["text", "json"] = "text", source: str | None = None) -> None:
    """Send all log lines of this process to stderr; `source` says which process of the cluster it is.

    Control characters in what is logged are escaped, so that no client can forge a line.
    """

    def add_extra(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        record = event.get("_record")
        if isinstance(record, logging.LogRecord):
            event.update({key: value for key, value in record.__dict__.items() if key not in _STANDARD})
        if source is not None:
            event["source"] = source
        return event

    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str) if style == "json" else _render_text
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            add_extra,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(
                fmt="iso" if style == "json" else "%H:%M:%S", utc=style == "json", key="time"
            ),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn tells of its own start and stop on the level at which we tell of ours.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.access").disabled = True


def _render_text(_logger: object, _name: str, event: structlog.typing.EventDict) -> str:
    time, level = event.pop("time", ""), event.pop("level", "info")
    source, message = event.pop("source", None), event.pop("event", "")
    exception = event.pop("exception", None)
    pairs = "".join(f"  {key}={printable(value)}" for key, value in event.items())
    line = f"{time} {level:<7} {f'{source}: ' if source else ''}{printable(message)}{pairs}"
    # Behind a bar: the text of an exception may hold what a client sent, line ends included.
    return "\n".join([line, *(f"  | {printable(part)}" for part in str(exception or "").splitlines())])


def printable(value: object) -> str:
    """Escape what could play tricks on a terminal, or begin a line of its own."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


class Limiter:
    """Lets the first `lines` of each span of `span_s` seconds pass, and counts the others."""

    __slots__ = ("_count", "_lines", "_span_ends", "_span_s")

    def __init__(self, lines: int, span_s: float) -> None:
        self._lines = lines
        self._span_s = span_s
        self._span_ends = 0.0
        self._count = 0

    def passes(self, now: float) -> bool:
        """Whether a line may be written at `now`, in seconds."""
        if now >= self._span_ends and not self.has_missed:
            self._span_ends = now + self._span_s
            self._count = 0
        self._count += 1
        return self._count <= self._lines

    @property
    def has_missed(self) -> bool:
        """Whether lines were left out that `missed` has not told of."""
        return self._count > self._lines

    def missed(self, now: float) -> int:
        """Return, once, how many were left out in the span that has ended; 0 while it has not."""
        if now < self._span_ends or not self.has_missed:
            return 0
        missed = self._count - self._lines
        self._count = 0
        return missed
