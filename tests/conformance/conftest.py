"""A door in front of one scripted origin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tests.support.cluster import DOORS, SharedRedis, distributers
from tests.support.raw import Origin, Script, origin


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


Front = Callable[..., AbstractAsyncContextManager[tuple[int, Origin]]]


@pytest.fixture
def front(door: str) -> Front:
    """Open a door in front of an origin that does what the script says: yields the port and the origin."""

    @asynccontextmanager
    async def open_front(
        script: Script, *, reads_body: bool = True, shared: SharedRedis | None = None, **more: Any
    ) -> AsyncIterator[tuple[int, Origin]]:
        async with origin(script, reads_body=reads_body) as it:
            shared = shared or SharedRedis(None)
            async with distributers(door, shared.settings([it.port], **more), shared, 1) as ports:
                yield ports[0], it

    return open_front
