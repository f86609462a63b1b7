"""Opening and closing a core with the application it serves.

The core lives in the ASGI lifespan's state, where both doors find it: the middleware in `scope["state"]`, the express
door in the `app_state` that uvicorn hands to its protocols.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from distributer.forwarding.core import ForwardingCore

CORE_KEY = "distributer"

log = logging.getLogger("distributer")

OpenCore = Callable[[], AbstractAsyncContextManager[ForwardingCore]]
"""Opens a core on the running loop and closes it at the end."""


@asynccontextmanager
async def running(core: ForwardingCore) -> AsyncIterator[ForwardingCore]:
    """Keep a core's clock going, and cut its connections at the end."""
    core.clock.start()
    try:
        yield core
    finally:
        core.clock.stop()
        await core.close()
