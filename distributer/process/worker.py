"""One worker process: a replica behind the express door, on a socket that the supervisor lends."""

from __future__ import annotations

import asyncio
import contextlib
import math
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
        await super().shutdown(sockets)


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
            timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        ),
        settings,
    )
    server.run(sockets=[order.socket])
    return 0


if __name__ == "__main__":
    sys.exit(main())
