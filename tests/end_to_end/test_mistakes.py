"""Wrong settings and missing surroundings: one clear line, an exit status that is not 0, no traceback, under 5 s."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.processes import Command, accepts, clean, run
from tests.support.redis_server import RedisServer, find_servers

BACKEND = ("--backend", "http://127.0.0.1:9")
SERVE = ("-m", "distributer", "serve")


def mistake(
    *arguments: str, says: str, status: int, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a command that must fail with one line on stderr that says something; return the line."""
    it = run(*arguments, environment=environment, cwd=cwd)
    assert it.errors.count("\n") == 1, it.errors
    assert it.output == ""
    assert it.errors.startswith("distributer: ")
    assert says in it.errors
    assert it.status == status
    assert it.seconds < 5
    return it.errors


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "backend: none is given"),
        (("--backend", "127.0.0.1:8000"), "backends: "),
        (("--backend", "ftp://127.0.0.1"), "is not an http:// URL"),
        (("--backend", "http://127.0.0.1:99999"), "bad port"),
        (("--backend", "http://user:secret@127.0.0.1"), "may not hold a user name"),
        (("--backend", "http://127.0.0.1:8000/path"), "path"),
        ((*BACKEND, "--backend", "HTTP://127.0.0.1:9/"), "more than once"),
        ((*BACKEND, "--port", "0"), ": port: "),
        ((*BACKEND, "--port", "http"), "port"),
        ((*BACKEND, "--admin-port", "65536"), "admin_port: "),
        ((*BACKEND, "--replicas", "0"), "replicas: "),
        ((*BACKEND, "--redis", "http://127.0.0.1"), "redis: "),
        ((*BACKEND, "--log-level", "loud"), "log_level: "),
        ((*BACKEND, "--config", "nowhere.toml"), "config: there is no file nowhere.toml"),
        ((*BACKEND, "--no-such-flag"), "no-such-flag"),
        ((*BACKEND, "stray"), "stray"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(flags: tuple[str, ...], says: str) -> None:
    assert "secret" not in mistake(*SERVE, *flags, says=says, status=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sevre",), "sevre"),
        (("--loud",), "--loud"),
        (("sticky", "get"), "ITEM"),
        (("sticky", "list", "--limit", "-1"), "limit: "),
        (("status", "--redis", "http://127.0.0.1"), "redis: "),
        (("redis-cli",), "redis-cli: "),
        (("bench",), "--url"),
        (("bench", "--url", "https://127.0.0.1"), "url: 'https://127.0.0.1' is not an http:// URL"),
        (("bench", "--url", "http://127.0.0.1:99999"), "url: "),
        (("bench", "--url", "http://me:secret@127.0.0.1"), "url: it may not hold a user name"),
        (("bench", "--url", "http://127.0.0.1/ö"), "url: "),
        (("bench", "--url", "http://127.0.0.1", "--connections", "0"), "connections: 1 or more, not 0"),
        (("bench", "--url", "http://127.0.0.1", "--seconds", "-1"), "seconds: more than 0, not -1"),
        (("bench", "--url", "http://127.0.0.1", "--scenario", "ping"), "scenario: one of get, read, create, not"),
        (("up", "--port", "0"), "port: "),
        (("up", "--port", "8081"), "port: "),
        (("up", "--replicas", "few"), "replicas"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    mistake("-m", "distributer", *arguments, says=says, status=2)


def test_a_wrong_variable_is_one_line_that_names_it() -> None:
    for variable, value, says in (
        ("PORT", "many", "port: "),
        ("PROT", "8080", "DISTRIBUTER_PROT: there is no such setting"),
        ("BACKENDS", "http://127.0.0.1:1,127.0.0.1:2", "backends: "),
        ("CONFIG", "nowhere.toml", "config: there is no file nowhere.toml"),
    ):
        mistake(*SERVE, says=says, status=2, environment={f"DISTRIBUTER_{variable}": value})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"prot = 8080", "prot: there is no such setting"),
        (b"port = ", "is not TOML"),
        (b"port = 'x'", "port: "),
        (b"# \xff", "cannot be read"),
        (b"backends = 'http://127.0.0.1:99999'", "backends: "),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "distributer.toml").write_bytes(text)
    mistake(*SERVE, says=says, status=2, cwd=tmp_path)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    mistake(*SERVE, *BACKEND, "--config", str(tmp_path), says=f"config: {tmp_path} cannot be read", status=2)
    if os.geteuid() != 0:  # root reads everything
        (tmp_path / "distributer.toml").touch(0o000)
        mistake(*SERVE, *BACKEND, says="config: distributer.toml cannot be read", status=2, cwd=tmp_path)


def test_a_port_in_use_is_one_line_that_names_which(taken_port: int) -> None:
    says = f"port: {taken_port} on 127.0.0.1 is in use"
    for flags in ((), ("--replicas", "2")):
        mistake(*SERVE, *BACKEND, "--port", str(taken_port), *flags, says=f": {says}", status=1)
    admin = ("--port", str(free_port()), "--admin-port", str(taken_port))
    mistake(*SERVE, *BACKEND, *admin, says=f": admin_{says}", status=1)


def test_an_address_of_another_machine_is_one_line_that_names_which() -> None:
    ports = ("--port", str(free_port()), "--admin-port", str(free_port()))
    # The first is of a block that is for documentation; the second can be no name, so nobody is asked for it.
    for flag, host in (("--host", "192.0.2.1"), ("--host", "a..b"), ("--admin-host", "192.0.2.1")):
        says = f": {flag[2:].replace('-', '_')}: '{host}' is no address of this machine"
        mistake(*SERVE, *BACKEND, *ports, flag, host, says=says, status=1)


FEW_FILES = """
import resource
from distributer.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
main()
"""
NO_CHILDREN = """
import asyncio
from distributer.cli import main
from distributer.process import supervisor
async def nothing(*_): pass
async def fail(*_, **__): raise OSError(24, "Too many open files")
supervisor.enter_cluster = nothing
asyncio.create_subprocess_exec = fail
main()
"""


@pytest.mark.parametrize(
    ("program", "says"),
    [(FEW_FILES, "only 24 files (RLIMIT_NOFILE); at least "), (NO_CHILDREN, " cannot be started: Too many open files")],
)
def test_too_few_descriptors_are_one_line(program: str, says: str) -> None:
    flags = ("--port", str(free_port()), "--replicas", "2")
    mistake("-c", program, "serve", *BACKEND, *flags, says=says, status=1)


def test_a_redis_that_never_comes_ends_the_wait() -> None:
    where = f"redis://127.0.0.1:{free_port()}"
    flags = ("--port", str(free_port()), "--redis", where, "--wait-redis-s", "1")
    it = run(*SERVE, *BACKEND, *flags)
    waiting, given_up = it.errors.splitlines()
    assert f"waiting for Redis at {where}, for up to 1 s" in waiting
    assert f"redis: {where} did not come within 1 s" in given_up
    assert (it.status, it.output) == (1, "")
    assert 1 <= it.seconds < 5


def test_the_wait_for_a_redis_can_be_ended() -> None:
    port = free_port()
    with Command(*SERVE, *BACKEND, "--port", str(port), "--redis", f"redis://127.0.0.1:{free_port()}") as command:
        command.wait_for("waiting for Redis at")
        assert command.end() == 0
        assert "Traceback" not in command.output
        assert not accepts(port)


@pytest.mark.redis
@pytest.mark.parametrize("name", ["valkey", "redis"])
def test_a_redis_that_refuses_the_password_is_one_line_without_it(name: str) -> None:
    server = find_servers().get(name)
    if server is None:
        pytest.skip(f"no {name} server can be started here")
    with RedisServer(server, password="right") as it:
        for credentials in ("", "someone:secret@", ":secret@"):
            url = f"redis://{credentials}127.0.0.1:{it.port}"
            line = mistake(*SERVE, *BACKEND, "--port", str(free_port()), "--redis", url, says="refuses us", status=1)
            assert "secret" not in line
        assert "secret" not in mistake("-m", "distributer", "status", "--redis", url, says="redis: ", status=1)


def test_what_answers_and_is_no_redis_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    connection.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}"
        flags = ("--port", str(free_port()), "--redis", url)
        assert "secret" not in mistake(*SERVE, *BACKEND, *flags, says="answers, but is no Redis", status=1)
        thread.join()


@pytest.mark.redis
def test_a_redis_that_is_late_is_waited_for() -> None:
    found = list(find_servers().values())
    if not found:
        pytest.skip("no server can be started here")
    server = RedisServer(found[0])
    flags = ("--port", str(free_port()), "--redis", server.url)
    with Command(*SERVE, *BACKEND, *flags) as command:
        command.wait_for("waiting for Redis at")
        with server:
            command.wait_for("serving on")
            assert command.output.count("\n") == 2
            assert command.end() == 0


@pytest.mark.parametrize(
    "command", [("status",), ("sticky", "get", "7"), ("sticky", "list"), ("redis-cli", "PING")], ids=" ".join
)
def test_looking_without_a_redis_is_one_line(command: tuple[str, ...]) -> None:
    mistake("-m", "distributer", *command, "--redis", f"redis://127.0.0.1:{free_port()}", says="redis: ", status=1)


def test_the_asgi_application_refuses_wrong_settings_without_a_traceback() -> None:
    environment = {"DISTRIBUTER_BACKENDS": "ftp://x"}
    server = ("-m", "uvicorn", "distributer.app:app", "--port", str(free_port()))
    it = run(*server, environment=environment)
    assert "backends: " in it.errors
    assert "Traceback" not in it.errors
    assert it.status != 0


def test_help_and_version_are_no_mistakes() -> None:
    for arguments in (("--help",), ("serve", "--help"), ("sticky", "get", "--help")):
        it = run("-m", "distributer", *arguments)
        assert (it.status, it.errors) == (0, "")
        assert "Usage: distributer" in it.output
    it = run("-m", "distributer", "--version")
    assert (it.status, it.output, it.errors) == (0, f"{version('distributer')}\n", "")


@pytest.mark.parametrize("command", ["check-config", "--help", "--version"])
def test_a_reader_that_has_left_is_no_traceback(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        it = subprocess.run(
            [sys.executable, "-m", "distributer", command],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=20,
            env=clean(),
        )
    finally:
        os.close(writing)
    assert (it.returncode, it.stderr) == (1, "")
