"""What a service manager such as systemd is told, over the socket that it names."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distributer.process.notify import Notifier
from tests.support.ports import free_port
from tests.support.processes import serve
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


class Manager:
    """A manager's socket, and what has come to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._came: queue.Queue[str] = queue.Queue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            self._came.put(message.decode())

    def next(self, name: str) -> dict[str, str]:
        """Return the next message that sets this name; before it, STATUS and WATCHDOG may come, and nothing else."""
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            message = dict(line.split("=", 1) for line in self._came.get(timeout=20).split("\n"))
            if name in message:
                return message
            assert set(message) <= {"STATUS", "WATCHDOG"}, message
        raise AssertionError(f"{name} does not come")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    it = Manager(str(tmp_path / "notify"))
    yield it
    it.close()


@pytest.fixture
def abstract_manager(manager: Manager) -> Iterator[Manager]:
    """One at an abstract address, where there are any."""
    if sys.platform != "linux":
        yield manager
        return
    it = Manager(f"@distributer-test-{os.getpid()}")
    yield it
    it.close()


def test_the_manager_is_told_of_each_step_and_that_it_lives(
    redis_servers: Callable[[str], RedisServer], abstract_manager: Manager
) -> None:
    manager = abstract_manager
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    flags = ("--admin-port", str(free_port()))
    with serve(free_port(), redis_servers("valkey").url, [9], *flags, environment=environment) as command:
        assert manager.next("READY") == {"READY": "1", "STATUS": "2 of 2 processes serve"}
        assert manager.next("WATCHDOG") == {"WATCHDOG": "1"}
        if sys.platform == "linux":
            for pid in command.descendants:
                given = Path(f"/proc/{pid}/environ").read_bytes()
                assert b"NOTIFY_SOCKET" not in given
                assert b"WATCHDOG" not in given

        before_us = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
        command.send(signal.SIGHUP)
        reloading = manager.next("RELOADING")
        assert before_us <= int(reloading.pop("MONOTONIC_USEC")) <= time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
        assert reloading == {"RELOADING": "1", "STATUS": "rolling restart; 2 of 2 processes serve"}
        assert manager.next("READY") == {"READY": "1", "STATUS": "2 of 2 processes serve"}
        assert "rolling restart done" in command.output

        command.send(signal.SIGTERM)
        stopping = manager.next("STOPPING")
        assert stopping["STATUS"].startswith("draining, for up to 30 s")
        assert command.end() == 0


DIES = """
from distributer.cli import main
from distributer.process import supervisor
start = supervisor.Supervisor._start
async def patched(self, slot):
    if slot.served.is_set():
        slot.module = "distributer.no_such_module"
    return await start(self, slot)
supervisor.Supervisor._start = patched
main()
"""


def test_the_manager_is_shown_how_many_serve(redis_servers: Callable[[str], RedisServer], manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address}
    url = redis_servers("valkey").url
    with serve(free_port(), url, [9], "--replicas", "2", program=("-c", DIES), environment=environment) as command:
        assert manager.next("READY")["STATUS"] == "2 of 2 processes serve"
        os.kill(command.workers[0], signal.SIGKILL)
        assert manager.next("STATUS") == {"STATUS": "1 of 2 processes serve"}
        assert command.end() == 0


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_a_watchdog_counts_if_it_is_meant_for_this_process(
    environment: dict[str, str], watchdog_s: float | None
) -> None:
    given = {"NOTIFY_SOCKET": "vsock:2:1", "OTHER": "x"} | environment
    assert Notifier.taken_from(given).watchdog_s == watchdog_s
    assert given == {"OTHER": "x"}, "all of it is taken out"
