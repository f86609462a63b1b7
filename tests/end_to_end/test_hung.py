"""Workers that hang, or die again and again: told, and replaced."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.support.load import load, quick_backends
from tests.support.ports import free_port
from tests.support.processes import is_alive, serve
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

PATCHED = """
import signal
from distributer.cli import main
from distributer.process import child_process, supervisor
start = supervisor.Supervisor._start
{patch}
supervisor.Supervisor._start = patched
main()
"""


@pytest.fixture
def redis_url(redis_servers: Callable[[str], RedisServer]) -> str:
    return redis_servers("valkey").url


async def test_a_worker_that_hangs_is_replaced_and_the_supervisors_own_pause_counts_for_nothing(redis_url: str) -> None:
    async with quick_backends(1) as backends:
        port = free_port()
        environment = {"DISTRIBUTER_WORKER_TIMEOUT_S": "2"}
        flags = ("--replicas", "2", "--admin-port", str(free_port()))
        with serve(port, redis_url, [backends[0].port], *flags, environment=environment) as command:
            before = command.descendants
            command.send(signal.SIGSTOP)
            await asyncio.sleep(2.5)  # more than the limit
            command.send(signal.SIGCONT)
            assert (await load(port, 100, 4)).statuses == {200: 100}
            hung = command.workers[1]
            os.kill(hung, signal.SIGSTOP)
            await asyncio.to_thread(command.wait_for, "replica 2 has given no sign of life for 2 s; killing it")

            def replaced() -> bool:
                return not is_alive(hung) and len(command.workers) == 2

            await asyncio.to_thread(wait_until, replaced, "it is replaced")
            result = await load(port, 200, 20)
            assert (result.statuses, result.broken) == ({200: 200}, 0)
            assert set(before) - set(command.descendants) == {hung}
            lines = command.output.splitlines()
            said = [line.partition("replica ")[2] for line in lines if "replica 2 " in line]
            assert said[0] == "2 has given no sign of life for 2 s; killing it"
            assert said[1].startswith("2 ended (killed by SIGKILL); starting it again in ")
            assert len(said) == 2
            assert await asyncio.to_thread(command.end) == 0


def test_without_a_limit_a_worker_may_hang(redis_url: str) -> None:
    environment = {"DISTRIBUTER_WORKER_TIMEOUT_S": "0", "NOTIFY_SOCKET": "/none/is/there"}
    with serve(free_port(), redis_url, [9], environment=environment) as command:
        (worker,) = command.workers
        os.kill(worker, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(worker, signal.SIGCONT)
        assert command.end() == 0
        assert "sign of life" not in command.output


STALLS = """
child_process.READY_TIMEOUT_S = 3.0
async def patched(self, slot):
    child = await start(self, slot)
    if slot.served.is_set() and slot.title:
        slot.title = ""
        child.signal(signal.SIGSTOP)
    return child
"""


def test_a_successor_that_is_never_ready_is_replaced_as_well(redis_url: str) -> None:
    with serve(free_port(), redis_url, [9], program=("-c", PATCHED.format(patch=STALLS))) as command:
        (worker,) = command.workers
        os.kill(worker, signal.SIGKILL)
        command.wait_for("replica 1 was not ready within 3 s; killing it")

        def replaced() -> bool:
            return command.output.count("starting it again") == 2 and len(command.workers) == 1

        wait_until(replaced, "it is replaced")
        assert command.end() == 0


DIES = """
supervisor.LONGEST_DELAY_S = 0.4
async def patched(self, slot):
    if slot.served.is_set():
        slot.module = "distributer.no_such_module"
    return await start(self, slot)
"""


def test_a_worker_that_dies_again_and_again_is_told_each_time_and_started_ever_later(redis_url: str) -> None:
    with serve(free_port(), redis_url, [9], program=("-c", PATCHED.format(patch=DIES))) as command:
        (worker,) = command.workers
        os.kill(worker, signal.SIGKILL)

        def delays() -> list[float]:
            told = r"warning replica 1 ended \((?:killed by SIGKILL|exit status 1)\); starting it again in (\S+) s\n"
            return [float(delay) for delay in re.findall(told, command.output)]

        wait_until(lambda: len(delays()) >= 6, "it has been started again six times")
        found = delays()
        assert found[0] <= 0.1
        assert all(later == min(0.4, 2 * before) for before, later in pairwise(found))
        assert found[-1] == 0.4
        assert command.end() == 0
