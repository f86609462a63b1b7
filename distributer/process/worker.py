"""One worker process: a replica behind the express door, on a socket that the supervisor lends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

import uvicorn

from distributer.control.replica import open_replica
from distributer.doors.asgi import DistributerMiddleware, lifespan_only
from distributer.doors.express import ExpressProtocol
from distributer.forwarding.core import ForwardingCore
from distributer.heap import spare_the_collector
from distributer.process.child import DRAIN_GRACE_S, ChildServer, take_order
from distributer.process.descriptors import fitted, raise_limit

log = logging.getLogger("distributer")

FIRST_WAIT_S = 1.0
"""How long a worker waits for Redis before it serves degraded. The supervisor has waited before the first one."""


class _Server(ChildServer):
    """A worker's server: stops politely, and spares the collector's work."""

    core: ForwardingCore | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        spare_the_collector()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.core is not None:
            self.core.start_draining()
        if not self.force_exit:
            await asyncio.sleep(DRAIN_GRACE_S / 2)
            for server in self.servers:
                server.close()
            # Of those who were accepted last, the requests are on their way.
            await asyncio.sleep(DRAIN_GRACE_S / 2)
        loop = asyncio.get_running_loop()
        limit = loop.call_later(self._settings.drain_timeout_s, self._cut_rest, loop)
        await super().shutdown(sockets)
        limit.cancel()

    def _cut_rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """The drain has lasted for as long as it may: cut what is left, for which uvicorn waits."""
        tunnels = tuple(self.core.tunnels) if self.core is not None else ()
        left = {"connections": len(self.server_state.connections) - len(tunnels), "tunnels": len(tunnels)}
        log.warning("drain_timeout_s is over; what is left is cut", extra=left)
        for tunnel in tunnels:
            tunnel.cut()
        loop.call_soon(self._cut_connections)  # when those of the tunnels are gone

    def _cut_connections(self) -> None:
        for connection in tuple(self.server_state.connections):
            cast(ExpressProtocol, connection).cut()


def main() -> int:
    """Serve until told to stop; return the exit status."""
    order = take_order()
    settings = fitted(order.settings, raise_limit())
    server: _Server

    @contextlib.asynccontextmanager
    async def open_core() -> AsyncIterator[ForwardingCore]:
        async with open_replica(settings, wait_redis_s=FIRST_WAIT_S, reconciles=False) as core:
            server.core = core
            yield core

    server = _Server(
        uvicorn.Config(
            DistributerMiddleware(lifespan_only, open_core),
            http=cast(Any, ExpressProtocol),
            ws="none",
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        ),
        settings,
    )
    server.run(sockets=[order.socket])
    return 0


if __name__ == "__main__":
    sys.exit(main())
