"""One replica as an ASGI application: `uvicorn distributer.app:app --port 8080`.

Settings come from the environment (`DISTRIBUTER_BACKENDS`, `DISTRIBUTER_REDIS` …) and `distributer.toml`. With no
backends in either, the demo's four are taken (`scripts/run_servers.py`), and a line says so.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from distributer.config import DEMO_BACKENDS, Settings, load
from distributer.control.replica import open_replica
from distributer.doors.asgi import DistributerMiddleware, lifespan_only
from distributer.forwarding.core import ForwardingCore
from distributer.heap import spare_the_collector

log = logging.getLogger("uvicorn.error")


def _settings() -> Settings:
    settings = load()
    if not settings.backends:
        log.warning("no backends are set; taking the demo's: %s", ", ".join(DEMO_BACKENDS))
        settings = load(backends=DEMO_BACKENDS)
    return settings


@asynccontextmanager
async def _open() -> AsyncIterator[ForwardingCore]:
    async with open_replica(_settings()) as core:
        spare_the_collector()  # no application of anybody else's shares this process
        yield core


app = DistributerMiddleware(lifespan_only, _open)
