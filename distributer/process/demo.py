"""`distributer up`: a Redis, four backends, two replicas, and a first look at what they do together."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.servers import POLL_INTERVAL_S, BackendServers, ServersError
from distributer.config import Settings
from distributer.control.registry import Registry
from distributer.control.replica import CONTROL_TIMEOUT_S
from distributer.errors import ConfigError, StartupError, StateError
from distributer.model import bracketed
from distributer.process.embedded import EmbeddedRedis
from distributer.process.serve import stopping_on_signals
from distributer.process.sockets import listen
from distributer.process.supervisor import Supervisor
from distributer.state.keys import Keys
from distributer.state.redis_client import client_of, close, redacted
from distributer.tasks import end

BACKENDS = 4
READY_TIMEOUT_S = 15.0
PROBE_PATH = "/healthz"
TOUR_ITEMS = range(9001, 9005)


@dataclass(frozen=True, slots=True)
class DemoPorts:
    """Where the demo listens."""

    host: str
    port: int
    admin_port: int
    backend_port: int
    replicas: int

    @property
    def backends(self) -> range:
        """The backends' ports."""
        return range(self.backend_port, self.backend_port + BACKENDS)

    def check(self) -> None:
        """Raise ConfigError if two things would listen on one port, or on none that exists."""
        used = [self.port, self.admin_port, *self.backends]
        if not all(0 < port < 65_536 for port in used):
            raise ConfigError("port: all ports are from 1 to 65535")
        if len(set(used)) < len(used):
            raise ConfigError("port: the distributer, its control plane and the backends need a port each")


class Demo:
    """The whole cluster on one machine, from the first port to the last process."""

    def __init__(
        self,
        ports: DemoPorts,
        load: Callable[..., Settings],
        redis_url: str | None,
        show: Callable[[str], None],
    ) -> None:
        ports.check()
        self._ports = ports
        self._load = load
        self._named_redis = redis_url
        self._show = show
        self._embedded: EmbeddedRedis | None = None
        self._interrupted = asyncio.Event()
        self._supervisor: Supervisor | None = None
        self._servers = BackendServers(ports.host, ports.backends, 0.0, show)

    async def run(self) -> None:
        """Bring everything up, show it, and wait for Ctrl-C. Raises ConfigError or StartupError."""
        with stopping_on_signals(self._interrupt):
            try:
                await self._run()
            finally:
                await self._stop()

    async def _run(self) -> None:
        self._check_ports()
        settings = await self._settings()
        self._servers.start()
        await self._until_stopped(asyncio.to_thread(self._servers.wait_ready, READY_TIMEOUT_S))
        self._supervisor = Supervisor(settings, self._show)
        if self._interrupted.is_set():
            return
        await self._supervisor.start()
        if self._interrupted.is_set():
            return
        self._introduce(settings)
        tour = asyncio.create_task(self._tour(settings))
        watch = asyncio.create_task(self._watch())
        await self._interrupted.wait()
        await end([tour, watch])

    def _interrupt(self) -> None:
        self._interrupted.set()
        self._servers.interrupt()
        if self._supervisor is not None:
            self._supervisor.interrupt()

    async def _stop(self) -> None:
        has_begun = self._embedded is not None or self._supervisor is not None or bool(self._servers.pids)
        if self._supervisor is not None:
            await self._supervisor.stop()
        await asyncio.to_thread(self._servers.stop)
        if self._embedded is not None:
            self._embedded.stop()
        if has_begun:
            self._show("all stopped")

    def _check_ports(self) -> None:
        ports = self._ports
        for flag, port in (("port", ports.port), ("admin-port", ports.admin_port)):
            try:
                listen(ports.host, port, 1, setting=flag)[0].close()
            except StartupError as error:
                hint = f"; choose another with --{flag}" if str(error).startswith(flag) else ""
                raise StartupError(f"{error}{hint}") from error
        try:
            self._servers.check_ports()
        except ServersError as error:
            raise StartupError(f"backend-port: {error}; choose others with --backend-port") from error

    async def _settings(self) -> Settings:
        """Take the Redis that is named, in a flag, the environment or the file; else start one."""
        ports = self._ports
        flags: dict[str, Any] = {
            "host": ports.host,
            "port": ports.port,
            "admin_host": ports.host,
            "admin_port": ports.admin_port,
            "replicas": ports.replicas,
            "backends": tuple(f"http://{bracketed(ports.host)}:{port}" for port in ports.backends),
            "list_path": "/items/",
            "routing_headers": True,
            "access_log": True,
            "probe_path": PROBE_PATH,
        }
        settings = self._load(redis=self._named_redis, **flags)
        if "redis" in settings.model_fields_set:
            self._show(f"Redis: {redacted(settings.redis)}, as configured")
            return settings
        self._embedded = EmbeddedRedis()
        await self._embedded.start()
        self._show(f"Redis: {self._embedded.binary.description}, on port {self._embedded.port} (none was configured)")
        return self._load(redis=self._embedded.url, **flags)

    async def _until_stopped(self, work: Any) -> None:
        try:
            await work
        except ServersError as error:
            raise StartupError(str(error)) from error

    def _introduce(self, settings: Settings) -> None:
        ports, host = self._ports, bracketed(self._ports.host)
        url = f"http://{host}:{ports.port}"
        cli = f"--redis {settings.redis}" if self._embedded is not None else "…"
        lines = [
            "",
            f"  distributer   {url}   {ports.replicas} replicas behind one port",
            f"  backends      http://{host}:{ports.backends[0]} … {ports.backends[-1]}",
            f"  control plane http://{host}:{ports.admin_port}/api/v1/status",
            f"  Redis         {redacted(settings.redis)}",
            "",
            "Try, in another terminal:",
            f"  for i in 1 2 3 4 5 6 7 8; do curl -s {url}/ping; echo; done",
            f"  curl -s '{url}/items/?item_id=7' -H 'content-type: application/json'"
            """ -d '{"name":"pen","price":1.5}'""",
            f"  curl -N {url}/events      (server-sent events; a WebSocket that echoes is at ws://{host}:{ports.port}/ws)",
            f"  {self._redis_cli(settings)} HGETALL {settings.prefix}:sticky"
            f"      (without redis-cli: {_program()} redis-cli {cli} HGETALL {settings.prefix}:sticky)",
            "",
            "Ctrl-C stops everything.",
            "",
        ]
        for line in lines:
            self._show(line)

    def _redis_cli(self, settings: Settings) -> str:
        return f"redis-cli -p {self._embedded.port}" if self._embedded is not None else "redis-cli -u …"

    async def _tour(self, settings: Settings) -> None:
        """Send a few requests and show what became of them. Whole turns of the rotation, and no item is left."""
        self._show("A first look: eight requests, then four items, then the sticky map, then the items are deleted.")
        url = (self._ports.host, self._ports.port)
        ports = [json.loads((await _ask(url, "GET", "/ping"))[1]).get("port") for _ in range(2 * BACKENDS)]
        self._show(f"  GET /ping ×{len(ports)}      {' '.join(map(str, ports))}")
        for item in TOUR_ITEMS:
            await _ask(url, "POST", f"/items/?item_id={item}", {"name": f"item {item}", "price": item / 100})
        client = client_of(settings.redis, CONTROL_TIMEOUT_S)
        try:
            registry = Registry(client, Keys(settings.prefix))
            for item in TOUR_ITEMS:
                self._show(f"  {settings.prefix}:sticky {item}   {await registry.owner(str(item))}")
        except StateError as error:
            self._show(f"  the sticky map could not be read: {error}")
        finally:
            await close(client)
            for item in TOUR_ITEMS:
                await _ask(url, "DELETE", f"/items/{item}")
        self._show("Your turn. What is asked of the distributer is logged here:")

    async def _watch(self) -> None:
        while True:
            self._servers.poll()
            await asyncio.sleep(POLL_INTERVAL_S)


def _program() -> str:
    """Spell our own command as it can be typed where this one was."""
    path = Path(sys.argv[0])
    if path.name != "distributer":
        return "python -m distributer"
    if shutil.which("distributer") == str(path):
        return "distributer"
    return os.path.relpath(path)


async def _ask(
    address: tuple[str, int], method: str, target: str, body: Mapping[str, Any] | None = None
) -> tuple[int, bytes]:
    """Send one request to the demo itself; return the status and the body."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        payload = json.dumps(body).encode() if body is not None else b""
        writer.write(
            f"{method} {target} HTTP/1.1\r\nHost: {bracketed(address[0])}:{address[1]}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
            + payload
        )
        head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), answer
    finally:
        writer.close()
