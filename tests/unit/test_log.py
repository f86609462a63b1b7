"""Log lines: one event is one line, whatever a client puts into it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distributer import log

LINE = re.compile(r"\d\d:\d\d:\d\d (debug|info|warning|error|critical) +(replica 1: )?[^\n]*")


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """Put back what `configure` changes: it is made for a process of its own."""
    root, server, access = (logging.getLogger(name) for name in (None, "uvicorn.error", "uvicorn.access"))
    before = root.handlers[:], root.level, server.level, access.disabled
    yield
    root.handlers[:], _, _, access.disabled = before
    root.setLevel(before[1])
    server.setLevel(before[2])


class Output:
    """What was written to stderr since it was last read."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def read(self) -> str:
        return self._capture.readouterr().err

    def lines(self) -> list[str]:
        text = self.read()
        assert text.endswith("\n")
        return text[:-1].split("\n")


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    return Output(capsys)


def raise_and_log(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("test").exception("it failed")


# How a line looks.


def test_a_line_for_people_tells_when_how_serious_who_and_what(output: Output) -> None:
    log.configure(source="replica 1")
    logging.getLogger("test").warning("%s is away", "Redis", extra={"since_s": 3, "url": "redis://host"})
    (line,) = output.lines()
    assert LINE.fullmatch(line)
    assert line[9:] == "warning replica 1: Redis is away  since_s=3  url=redis://host"


def test_a_line_for_machines_is_one_json_object(output: Output) -> None:
    log.configure(style="json", source="replica 1")
    logging.getLogger("test").warning("%s is away", "Redis", extra={"since_s": 3, "error": ValueError("no")})
    (line,) = output.lines()
    event = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event.pop("time"))
    assert event == {
        "event": "Redis is away",
        "level": "warning",
        "source": "replica 1",
        "since_s": 3,
        "error": "no",
    }


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
@pytest.mark.parametrize("style", ["text", "json"])
def test_less_serious_lines_are_left_out(
    output: Output, level: str, style: Literal["text", "json"], shown: int
) -> None:
    log.configure(level, style)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("test"), name)("a line")
    assert len(output.lines()) == shown


def test_uvicorn_speaks_up_only_when_something_is_wrong(output: Output) -> None:
    log.configure("debug")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.access").info("GET / 200")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    (line,) = output.lines()
    assert line.endswith("Invalid HTTP request received.")


def test_configured_twice_it_logs_once(output: Output) -> None:
    log.configure()
    log.configure()
    logging.getLogger("test").warning("a line")
    assert len(output.lines()) == 1


# Nobody can forge a line.

FORGED = "08:15:02 info    forged"
ENDS = ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\x1b[2K\r", "\b" * 80, "\0", "\x7f" * 80]


def is_harmless(line: str, style: str) -> bool:
    """Whether no terminal and no reader of lines can be led astray. JSON escapes all but DEL, which is harmless."""
    return line.isprintable() if style == "text" else line.isascii() and line.replace("\x7f", "").isprintable()


@pytest.mark.parametrize("end", ENDS, ids=ascii)
@pytest.mark.parametrize("style", ["text", "json"])
def test_control_characters_are_escaped(output: Output, style: Literal["text", "json"], end: str) -> None:
    log.configure(style=style)
    text = f"real{end}{FORGED}"
    logger = logging.getLogger("test")
    logger.warning(text)
    logger.warning("target %s", text)
    logger.warning("request", extra={"target": text})
    lines = output.lines()
    assert len(lines) == 3
    assert all(is_harmless(line, style) for line in lines)
    assert not any(line.startswith(FORGED) for line in lines)


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_the_text_of_an_exception_stays_behind_its_bar(output: Output, end: str) -> None:
    log.configure()
    raise_and_log(f"real{end}{FORGED}")
    first, *rest = output.lines()
    assert LINE.fullmatch(first)
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)
    assert rest[0] == "  | Traceback (most recent call last):"
    assert any("ValueError: real" in line for line in rest)


def test_an_exception_for_machines_is_part_of_its_line(output: Output) -> None:
    log.configure(style="json")
    raise_and_log(f"real\n{FORGED}")
    (line,) = output.lines()
    assert json.loads(line)["exception"].endswith(f"ValueError: real\n{FORGED}")


TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)


# The capture is read after each example, so nothing of one is left for the next.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS, st.sampled_from(["text", "json"]))
def test_any_event_is_one_line(output: Output, message: str, value: str, style: Any) -> None:
    log.configure(style=style)
    logging.getLogger("test").warning("%s", message, extra={"value": value})
    text = output.read()
    assert text.endswith("\n")
    line = text[:-1]
    assert is_harmless(line, style)
    if style == "json":
        event = json.loads(line)
        assert (event["event"], event["value"]) == (message, value)
    else:
        assert LINE.fullmatch(line)


@pytest.mark.parametrize("text", ["plain", "Zürich", "日本", "back\\slash", 'quote "x"'])
def test_what_can_be_printed_is_logged_as_it_is(output: Output, text: str) -> None:
    log.configure()
    logging.getLogger("test").warning("%s", text)
    (line,) = output.lines()
    assert line.endswith(f" {text}")
