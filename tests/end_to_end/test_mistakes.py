"""Wrong settings and missing surroundings: one clear line, an exit status that is not 0, no traceback, under 5 s."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.processes import Command, run
from tests.support.redis_server import RedisServer, find_servers

BACKEND = ("--backend", "http://127.0.0.1:9")
SERVE = ("-m", "distributer", "serve")


def mistake(*arguments: str, says: str, status: int, environment: dict[str, str] | None = None) -> str:
    """Run a command that must fail with one line that says something; return the line."""
    ended, output, seconds = run(*arguments, environment=environment)
    assert output.count("\n") == 1, output
    assert "Traceback" not in output
    assert says in output
    assert ended == status
    assert seconds < 5
    return output


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "backend: none is given"),
        (("--backend", "127.0.0.1:8000"), "backends: "),
        (("--backend", "ftp://127.0.0.1"), "is not an http:// URL"),
        (("--backend", "http://127.0.0.1:99999"), "bad port"),
        (("--backend", "http://user:secret@127.0.0.1"), "may not hold a user name"),
        (("--backend", "http://127.0.0.1:8000/path"), "path"),
        ((*BACKEND, *BACKEND), "more than once"),
        ((*BACKEND, "--port", "0"), "port: "),
        ((*BACKEND, "--port", "70000"), "port: "),
        ((*BACKEND, "--port", "http"), "port"),
        ((*BACKEND, "--replicas", "0"), "replicas: "),
        ((*BACKEND, "--redis", "http://127.0.0.1"), "redis: "),
        ((*BACKEND, "--redis", "redis://127.0.0.1:x"), "redis: "),
        ((*BACKEND, "--log-level", "loud"), "log_level: "),
        ((*BACKEND, "--drain-timeout-s", "nan"), "drain_timeout_s: "),
        ((*BACKEND, "--config", "nowhere.toml"), "config: there is no file nowhere.toml"),
        ((*BACKEND, "--no-such-flag"), "no-such-flag"),
        ((*BACKEND, "stray"), "stray"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(flags: tuple[str, ...], says: str) -> None:
    mistake(*SERVE, *flags, says=says, status=2)


def test_an_unknown_command_is_one_line() -> None:
    mistake("-m", "distributer", "sevre", says="sevre", status=2)


def test_a_wrong_variable_is_one_line_that_names_it() -> None:
    mistake(*SERVE, *BACKEND, says="port: ", status=2, environment={"DISTRIBUTER_PORT": "many"})
    mistake(*SERVE, *BACKEND, says="DISTRIBUTER_PROT: ", status=2, environment={"DISTRIBUTER_PROT": "8080"})


@pytest.mark.parametrize(
    ("text", "says"),
    [("prot = 8080", "prot: there is no such setting"), ("port = ", "is not TOML"), ("port = 'x'", "port: ")],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    mistake(*SERVE, *BACKEND, "--config", str(file), says=says, status=2)


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flags in ((), ("--replicas", "2")):
            mistake(
                *SERVE, *BACKEND, "--port", str(port), *flags, says=f"port: {port} on 127.0.0.1 is in use", status=1
            )


def test_a_redis_that_never_comes_ends_the_wait() -> None:
    where = f"redis://127.0.0.1:{free_port()}"
    flags = ("--port", str(free_port()), "--redis", where, "--wait-redis-s", "1")
    status, output, seconds = run(*SERVE, *BACKEND, *flags)
    waiting, given_up = output.splitlines()
    assert f"waiting for Redis at {where}, for up to 1 s" in waiting
    assert f"redis: {where} did not come within 1 s" in given_up
    assert (status, seconds < 5) == (1, True)


@pytest.mark.redis
def test_a_redis_that_refuses_the_password_is_one_line_without_it() -> None:
    for server in find_servers().values():
        with RedisServer(server, password="right") as it:
            for credentials in ("", ":wrong@", "someone:wrong@"):
                url = f"redis://{credentials}127.0.0.1:{it.port}"
                line = mistake(
                    *SERVE, *BACKEND, "--port", str(free_port()), "--redis", url, says="refuses us", status=1
                )
                assert "wrong" not in line
                mistake("-m", "distributer", "status", "--redis", url, says="redis: ", status=1)


@pytest.mark.redis
def test_a_redis_that_is_late_is_waited_for(redis_servers: Callable[[str], RedisServer]) -> None:
    server = RedisServer(next(iter(find_servers().values())))
    flags = ("--port", str(free_port()), "--redis", server.url)
    with Command(*SERVE, *BACKEND, *flags) as command:
        command.wait_for("waiting for Redis at")
        with server:
            command.wait_for("serving on")
            assert command.end() == 0


@pytest.mark.parametrize(
    "command", [("status",), ("sticky", "get", "7"), ("sticky", "list"), ("redis-cli", "PING")], ids=" ".join
)
def test_looking_without_a_redis_is_one_line(command: tuple[str, ...]) -> None:
    mistake("-m", "distributer", *command, "--redis", f"redis://127.0.0.1:{free_port()}", says="redis: ", status=1)


def test_the_asgi_application_refuses_wrong_settings_without_a_traceback() -> None:
    environment = {"DISTRIBUTER_BACKENDS": "ftp://x"}
    server = ("-m", "uvicorn", "distributer.app:app", "--port", str(free_port()))
    status, output, _ = run(*server, environment=environment)
    assert "backends: " in output
    assert "Traceback" not in output
    assert status != 0


def test_help_and_version_are_no_mistakes() -> None:
    assert run("-m", "distributer", "--help")[0] == 0
    assert run(*SERVE, "--help")[0] == 0
    status, output, _ = run("-m", "distributer", "--version")
    assert (status, output) == (0, "0.1.0\n")
