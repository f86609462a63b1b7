"""All that stands for the whole run: the cores, the backends, Redis; and the peer that is being measured."""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.child import Child, clean_environment, free_ports
from bench.cores import Cores, on_cores
from bench.peers.peer import Launch, Peer, Site, Unavailable
from bench.plan import Cell
from bench.redis_server import RedisServer, redis_server
from distributer.load.measurement import Measurement

BACKENDS = 4

START_S = 20.0
"""A Python proxy starts in one second, on a busy machine in five."""

SILENCE_S = 15.0
"""The slowest peer takes 4 s for an answer at 64 connections; after this the load client gives up."""

ITEMS_PER_RUN = 10_000_000
"""Room for the items of one run of the load client, so that runs never share any."""

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Target:
    """A peer that is up: where the load goes, and whose CPU time counts."""

    peer: Peer
    port: int
    child: Child | None

    @property
    def pid(self) -> int:
        assert self.child is not None, "the load goes straight to a backend"
        return self.child.pid


class Rig:
    """The bench itself. A context manager; all that it started has ended when the block has."""

    def __init__(self) -> None:
        self.cores = Cores.find()
        self.redis: RedisServer | None = None
        self._ports: list[int] = []
        self._first_items = itertools.count(1, ITEMS_PER_RUN)
        self._runs = itertools.count(1)
        self._open = ExitStack()
        self._folder: Path

    def __enter__(self) -> Rig:
        with ExitStack() as opening:
            self._folder = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            self._start_backends(opening)
            try:
                self.redis = opening.enter_context(redis_server(self.cores.load, self._folder))
            except Unavailable:
                self.redis = None  # the peers that need it say so
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def redis_port(self) -> int:
        """Raises Unavailable if there is no Redis."""
        if self.redis is None:
            raise Unavailable("needs Redis, and no server could be started")
        return int(self.redis.url.rpartition(":")[2].partition("/")[0])

    @contextmanager
    def running(self, peer: Peer, workers: int = 1, backends: tuple[str, ...] = ()) -> Iterator[Target]:
        """Run a peer, from an empty Redis, until the block ends. Raises Unavailable if it does not come up.

        Its backends are the bench's own, unless others are named.
        """
        if peer.launch is None:
            yield Target(peer, self._ports[0], None)
            return
        folder = self._folder / f"{peer.name}-{next(self._runs)}"
        folder.mkdir()
        port, spare_port = free_ports(2)
        backends = backends or tuple(f"http://127.0.0.1:{each}" for each in self._ports)
        site = Site(port, backends, folder, spare_port, self.redis.url if self.redis else None, workers)
        if self.redis is not None:
            self.redis.flush()
        with self._start(peer.launch(site), site) as child:
            child.wait_until_listening(port, START_S)
            _wait_until_answering(child, port)
            yield Target(peer, port, child)

    def measure(
        self, target: Target, cell: Cell, *, seconds: float, warmup_s: float, count_backends: bool = False
    ) -> Measurement:
        """Run the load client once. Raises Unavailable if it gives no measurement."""
        argv = [sys.executable, "-m", "bench.load", "--port", str(target.port), "--scenario", cell.scenario.name]
        argv += ["--connections", str(cell.connections), "--seconds", str(seconds), "--warmup", str(warmup_s)]
        argv += ["--first-item", str(next(self._first_items)), "--timeout", str(SILENCE_S)]
        if target.child is not None:
            target.child.check()
            argv += ["--cpu-of", str(target.child.pid)]
        if count_backends:
            argv.append("--count-backends")
        # Preparation and the last answers may each end in silence; beyond that the client itself is stuck.
        limit_s = seconds + warmup_s + 4 * SILENCE_S
        before = self._tickets(target)
        try:
            with on_cores(self.cores.load):
                done = subprocess.run(
                    argv,
                    cwd=_ROOT,
                    env=clean_environment(),
                    capture_output=True,
                    text=True,
                    timeout=limit_s,
                    check=True,
                )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"the load client had not ended after {limit_s:g} s") from error
        except subprocess.CalledProcessError as error:
            words = error.stderr.strip().splitlines() or ["no output"]
            raise Unavailable(f"the load client failed: {words[-1]}") from error
        measurement = Measurement.from_json(done.stdout)
        if cell.scenario.takes_tickets:
            _check_tickets(measurement, self._tickets(target), before)
        return measurement

    def _start_backends(self, opening: ExitStack) -> None:
        self._ports = free_ports(BACKENDS)
        argv = [sys.executable, "-m", "bench.origin"]
        for port in self._ports:
            argv += ["--port", str(port)]
        log = self._folder / "origin.log"
        child = opening.enter_context(Child(argv, cores=self.cores.load, log=log, cwd=_ROOT))
        for port in self._ports:
            child.wait_until_listening(port, START_S)

    def _start(self, launch: Launch, site: Site) -> Child:
        cores, log = self.cores.proxy(site.workers), site.folder / "output.log"
        return Child(launch.argv, cores=cores, log=log, cwd=site.folder, environment=launch.environment)

    def _tickets(self, target: Target) -> int | None:
        if target.peer.tickets_key is None or self.redis is None:
            return None
        return self.redis.counter(target.peer.tickets_key)


def _wait_until_answering(child: Child, port: int) -> None:
    """Return when GET /ping brings a backend's answer: a proxy may listen before it knows its backends."""
    deadline = time.monotonic() + START_S
    while True:
        child.check()
        answer = _ping(port)
        if answer is None:
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"GET /ping gives {answer} after {START_S:g} s; it says: {child.last_words()}")
        time.sleep(0.05)


def _ping(port: int) -> str | None:
    """Return what is wrong with the answer, or None."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            return f"status {response.status}"
        return None if "port" in json.loads(body) else f"{body[:40]!r}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}"
    finally:
        connection.close()


def _check_tickets(measurement: Measurement, after: int | None, before: int | None) -> None:
    """Count requests without a ticket as errors: a peer that skips the shared counter is not comparable."""
    if after is None or before is None:
        return
    missing = measurement.answers - (after - before)
    if missing > 0:
        measurement.errors["no ticket"] = missing
