"""A master, its replica, and a Sentinel that watches over them: real servers, with asynchronous replication."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.support.ports import free_port
from tests.support.redis_server import _LAUNCH, RedisServer
from tests.support.waiting import wait_until

DOWN_AFTER_MS = 500


@dataclass
class Pair:
    """Two servers. The URL leads, by way of the Sentinel, to whichever is the master."""

    master: RedisServer
    replica: RedisServer
    sentinel_port: int

    @property
    def url(self) -> str:
        """The URL as users give it."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel_port}/pair/0"

    def cut_off(self) -> None:
        """From now on, the master's writes do not reach the replica."""
        with redis.Redis.from_url(self.master.url) as client:
            # Who is connected stays; the replica is not let in again.
            client.config_set("requirepass", "none of the replica's")
            client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")


@contextmanager
def pair(argv: Sequence[str]) -> Iterator[Pair]:
    """Run them."""
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer(argv, aof=True))
        replica = stack.enter_context(RedisServer(argv, aof=True))
        for server in (master, replica):
            # Not asked to stop: one that has a replica waits for it.
            stack.callback(server.kill)
        with redis.Redis.from_url(master.url) as client, redis.Redis.from_url(replica.url) as other:
            client.config_set("repl-diskless-sync-delay", 0)
            other.replicaof("127.0.0.1", master.port)
            wait_until(lambda: _info(other)["master_link_status"] == "up", "the replica follows")
        port = free_port()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sentinel-")))
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor pair 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds pair {DOWN_AFTER_MS}\n"
            "sentinel failover-timeout pair 3000\n"
        )
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-IS", "-c", _LAUNCH, str(os.getpid())),
                    *(*argv, str(folder / "sentinel.conf"), "--sentinel"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        stack.callback(process.wait)
        stack.callback(process.kill)

        def watches() -> bool:
            try:
                with redis.Redis(port=port) as sentinel:
                    state: Any = sentinel.sentinel_master("pair")
                    return bool(state["num-slaves"] == 1)
            except redis.RedisError:
                return False

        wait_until(watches, "the Sentinel knows both")
        yield Pair(master, replica, port)


def _info(client: redis.Redis) -> Any:
    return client.info("replication")
