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
