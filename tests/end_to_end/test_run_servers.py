"""scripts/run_servers.py and the processes it keeps."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from itertools import accumulate
from pathlib import Path

import pytest

from backend.servers import BackendServers, ServersError, restart_delay_s
from tests.support.ports import free_port, free_port_row
from tests.support.processes import accepts
from tests.support.waiting import wait_until

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_servers.py"


class Run:
    """One run of the script, from a directory of its own.

    Every backend inherits the script's stderr, so its end of file says that no process at all is left.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._output = directory / "output"
        with self._output.open("wb") as output:
            self.script = subprocess.Popen(
                [sys.executable, str(SCRIPT), *arguments],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output or self.script.poll() is not None, f"{text!r} in the output")
        assert text in self.output

    def pids(self) -> dict[int, int]:
        return {int(port): int(pid) for port, pid in re.findall(r":(\d+) \(pid (\d+)\)", self.output)}

    def end(self, timeout_s: float = 20.0) -> tuple[int, str]:
        """Wait until neither the script nor a backend is left; the exit status and all of stderr."""
        _, errors = self.script.communicate(timeout=timeout_s)
        return self.script.returncode, errors


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*arguments: str) -> Run:
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield start
    for started in runs:
        # The script is killed, not asked: its backends have to end by themselves, and this waits for it.
        started.script.kill()
        started.end()


def ping(port: int) -> object:
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/ping")
        return json.load(connection.getresponse())


def answers(port: int) -> bool:
    try:
        return ping(port) == {"port": port}
    except OSError:
        return False


def test_each_port_answers_ping_with_its_own(run: Callable[..., Run]) -> None:
    ports = free_port_row(4)
    servers = run("--port", str(ports[0]))
    servers.wait_for("Ctrl-C stops them all")
    assert [ping(port) for port in ports] == [{"port": port} for port in ports]
    assert list(servers.pids()) == list(ports)


def test_a_directory_named_backend_is_no_trap(run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "__init__.py").write_text("raise ImportError('the wrong one')")
    port = free_port()
    run("--port", str(port), "--count", "1").wait_for("Ctrl-C stops them all")
    assert answers(port)


def test_ctrl_c_in_a_terminal_reaches_only_the_script(run: Callable[..., Run]) -> None:
    port = free_port()
    servers = run("--port", str(port), "--count", "1")
    servers.wait_for("Ctrl-C stops them all")
    # A terminal signals the process group in front: the script's.
    assert os.getpgid(servers.pids()[port]) != os.getpgid(servers.script.pid)


def test_a_killed_backend_is_replaced(run: Callable[..., Run]) -> None:
    ports = free_port_row(2)
    servers = run("--port", str(ports[0]), "--count", "2")
    servers.wait_for("Ctrl-C stops them all")
    pid = servers.pids()[ports[1]]
    os.kill(pid, signal.SIGKILL)
    line = f"backend on port {ports[1]} (pid {pid}) was ended by SIGKILL; starting it again in 0.2 s\n"
    servers.wait_for(line)
    wait_until(lambda: answers(ports[1]), "an answer of the replacement")
    assert servers.output.count("starting it again") == 1
    assert answers(ports[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all(run: Callable[..., Run], number: signal.Signals) -> None:
    ports = free_port_row(4)
    servers = run("--port", str(ports[0]))
    servers.wait_for("Ctrl-C stops them all")
    servers.script.send_signal(number)
    # Sooner than the 10 s after which they would be killed.
    assert servers.end(timeout_s=8) == (0, "")
    assert "starting it again" not in servers.output
    BackendServers("127.0.0.1", ports, 0, print).check_ports()


def test_a_signal_during_the_start_stops_all(run: Callable[..., Run]) -> None:
    # A latency of any length does not hold up the start.
    servers = run("--port", str(free_port_row(4)[0]), "--latency", "3600")
    wait_until(lambda: handles_sigterm(servers.script.pid), "a signal handler")
    servers.script.terminate()
    assert servers.end(timeout_s=8) == (0, "")


def handles_sigterm(pid: int) -> bool:
    if sys.platform != "linux":
        pytest.skip("asks Linux's /proc which signals are handled")
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_second_ctrl_c_does_not_wait_for_requests(run: Callable[..., Run]) -> None:
    port = free_port()
    servers = run("--port", str(port), "--count", "1", "--latency", "3600")
    servers.wait_for("Ctrl-C stops them all")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as waiting:
        waiting.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answers_healthz(port)  # so the backend has had its chance to read the request before
        servers.script.send_signal(signal.SIGINT)
        wait_until(lambda: not accepts(port), "the end of listening")
        # The request is held up, and with it the end of the backend and of the script.
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)
        assert servers.script.poll() is None
        servers.script.send_signal(signal.SIGINT)
        # Sooner than the 10 s of the first one.
        assert servers.end(timeout_s=5) == (0, "")


def answers_healthz(port: int) -> bool:
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200


def test_backends_end_with_a_killed_script(run: Callable[..., Run]) -> None:
    servers = run("--port", str(free_port_row(4)[0]))
    servers.wait_for("Ctrl-C stops them all")
    servers.script.kill()
    assert servers.end(timeout_s=8) == (-signal.SIGKILL, "")


def test_a_port_in_use_is_one_line_and_nothing_starts(run: Callable[..., Run]) -> None:
    ports = free_port_row(4)
    with socket.create_server(("127.0.0.1", ports[2])):
        servers = run("--port", str(ports[0]))
        assert servers.end() == (1, f"run_servers.py: port {ports[2]} on 127.0.0.1 is in use\n")
    assert servers.output == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--count", "0"), "--count: '0'"),
        (("--count", "65"), "--count: '65'"),
        (("--count", "four"), "--count: 'four'"),
        (("--count", "1_0"), "--count: '1_0'"),
        (("--port", "0"), "--port: '0'"),
        (("--port", "65533"), "--port: 4 ports from 65533"),
        (("--latency", "-1"), "--latency: '-1'"),
        (("--latency", "nan"), "--latency: 'nan'"),
        (("--latency", "inf"), "--latency: 'inf'"),
        (("--host", "nowhere"), "--host: 'nowhere'"),
        (("--cuont", "4"), "--cuont"),
        (("--coun", "4"), "--coun"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_status_2(
    run: Callable[..., Run], arguments: tuple[str, ...], named: str
) -> None:
    status, errors = run(*arguments).end()
    assert status == 2
    assert named in errors
    assert errors.count("\n") == 1


def test_an_address_that_is_not_ours_is_one_line(run: Callable[..., Run]) -> None:
    # 192.0.2.0/24 is set aside for documentation: no machine has it.
    status, errors = run("--host", "192.0.2.1").end()
    assert status == 1
    assert re.fullmatch(r"run_servers\.py: port 8000 on 192\.0\.2\.1 cannot be used: .+\n", errors)


def test_nobody_reading_the_output_is_no_reason_to_stop(tmp_path: Path) -> None:
    port = free_port()
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(SCRIPT), "--port", str(port), "--count", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True) as script:
        os.close(writer)
        try:
            wait_until(lambda: answers(port), "an answer")
            script.terminate()
            _, errors = script.communicate(timeout=8)
        finally:
            script.kill()
        assert (script.returncode, errors) == (0, "")


def test_servers_that_never_answer_are_named() -> None:
    ports = free_port_row(2)
    servers = BackendServers("127.0.0.1", ports, latency_s=-1, log=print)  # a latency that the application refuses
    try:
        servers.start()
        named = rf"^no answer on 127\.0\.0\.1 from port {ports[0]}, {ports[1]} within 1 s$"
        with pytest.raises(ServersError, match=named):
            servers.wait_ready(timeout_s=1)
    finally:
        servers.stop()
    assert servers.pids == {}


def test_an_interrupt_ends_the_wait_for_readiness() -> None:
    servers = BackendServers("127.0.0.1", [free_port()], latency_s=0, log=print)
    servers.interrupt()
    servers.wait_ready(timeout_s=1)  # raises if it waits: nothing was started
    assert servers.interrupted


def test_the_delay_doubles_while_a_server_dies_young() -> None:
    delays = accumulate([0.1] * 7, restart_delay_s, initial=0.0)
    assert list(delays) == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_the_delay_starts_over_after_a_steady_life() -> None:
    assert restart_delay_s(3.2, lived_s=5.0) == 0.2
    assert restart_delay_s(3.2, lived_s=4.9) == 5.0
