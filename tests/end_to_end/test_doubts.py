"""Creates and deletes whose outcome nobody knows: pending, and then found out by asking the backend."""

from __future__ import annotations

import asyncio

import pytest

from distributer.control import replica
from tests.support.cluster import DOORS, SharedRedis, distributers
from tests.support.items import item_backend
from tests.support.raw import Message, ask, connected, request
from tests.support.waiting import wait_until_async

JSON = "Content-Type: application/json"


@pytest.fixture(autouse=True)
def short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "CLAIM_MARGIN_S", 0.1)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("takes_effect", [True, False])
async def test_a_create_without_an_answer_is_resolved_by_asking(door: str, takes_effect: bool) -> None:
    shared = SharedRedis(None)
    async with item_backend() as backend:
        answer = backend.answer

        async def silent(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not message.start.startswith(b"POST"):
                await answer(message, reader, writer)
            elif takes_effect:
                backend.items.add(7)

        backend.answer = silent  # type: ignore[method-assign]
        settings = shared.settings([backend.port], claim_timeout_s=0.3)
        async with distributers(door, settings, shared, 1) as (port,), shared.client() as client:
            refused = await ask(port, request("POST", "/items/?item_id=7", JSON, body=b"{}"))
            assert refused.status == 504
            assert await client.hget("distributer:sticky", "7"), "in doubt, the binding is kept"
            assert await client.hlen("distributer:claims") == 1

            async def resolved() -> bool:
                return await client.hlen("distributer:claims") == 0

            await wait_until_async(resolved, "the doubt is resolved")
            assert (await client.hget("distributer:sticky", "7") is not None) is takes_effect


@pytest.mark.parametrize("door", DOORS)
async def test_a_create_whose_client_leaves_is_settled_all_the_same(door: str) -> None:
    shared = SharedRedis(None)
    asked, go_on = asyncio.Event(), asyncio.Event()
    async with item_backend() as backend:
        answer = backend.answer

        async def slow(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await go_on.wait()
            await answer(message, reader, writer)

        backend.answer = slow  # type: ignore[method-assign]
        async with (
            distributers(door, shared.settings([backend.port]), shared, 1) as (port,),
            shared.client() as client,
        ):
            async with connected(port) as leaver:
                await leaver.send(request("POST", "/items/?item_id=7", JSON, body=b"{}"))
                await asyncio.wait_for(asked.wait(), 5)
                leaver.leave()
            go_on.set()

            async def settled() -> bool:
                return await client.hlen("distributer:claims") == 0

            await wait_until_async(settled, "the claim is settled")
            assert await client.hget("distributer:sticky", "7") == f"http://127.0.0.1:{backend.port}".encode()
