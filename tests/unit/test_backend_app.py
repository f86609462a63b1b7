"""The demo application, without a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import ValidationError

from backend.app import create_app
from backend.config import Settings

PEN = {"name": "pen", "description": "blue", "price": 1.5, "tax": 0.3}
CUP = {"name": "cup", "price": 4}
CUP_AS_STORED = {"name": "cup", "description": None, "price": 4.0, "tax": None}


def client_of(settings: Settings) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(settings)), base_url="http://127.0.0.1:8123")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(Settings(latency_s=0)) as client:
        yield client


async def test_a_created_item_is_answered_with_200_and_can_be_read(client: httpx.AsyncClient) -> None:
    created = await client.post("/items/", params={"item_id": 7}, json=PEN)
    assert (created.status_code, created.json()) == (200, PEN)
    read = await client.get("/items/7")
    assert (read.status_code, read.json()) == (200, PEN)


async def test_optional_fields_are_null_when_left_out(client: httpx.AsyncClient) -> None:
    created = await client.post("/items/", params={"item_id": 7}, json=CUP)
    assert created.json() == CUP_AS_STORED


async def test_a_second_create_is_refused_and_leaves_the_first_item(client: httpx.AsyncClient) -> None:
    await client.post("/items/", params={"item_id": 7}, json=PEN)
    second = await client.post("/items/", params={"item_id": 7}, json=CUP)
    assert (second.status_code, second.json()) == (400, {"detail": "Item 7 already exists"})
    assert (await client.get("/items/7")).json() == PEN


async def test_events_are_sent_one_after_the_other(client: httpx.AsyncClient) -> None:
    answer = await client.get("/events", params={"count": 2, "every_s": 0})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == 'id: 1\ndata: {"port":8123,"number":1}\n\nid: 2\ndata: {"port":8123,"number":2}\n\n'


async def test_one_of_many_concurrent_creates_succeeds() -> None:
    # The latency lets all of them arrive before the first one acts.
    async with client_of(Settings(latency_s=0.001)) as client:
        creates = [client.post("/items/", params={"item_id": 7}, json=CUP) for _ in range(20)]
        statuses = sorted(answer.status_code for answer in await asyncio.gather(*creates))
    assert statuses == [200] + 19 * [400]


async def test_a_replaced_item_is_read_as_replaced(client: httpx.AsyncClient) -> None:
    await client.post("/items/", params={"item_id": 7}, json=PEN)
    replaced = await client.put("/items/7", json=CUP)
    assert (replaced.status_code, replaced.json()) == (200, CUP_AS_STORED)
    assert (await client.get("/items/7")).json() == CUP_AS_STORED


async def test_a_deleted_item_is_gone_and_can_be_created_again(client: httpx.AsyncClient) -> None:
    await client.post("/items/", params={"item_id": 7}, json=PEN)
    deleted = await client.delete("/items/7")
    assert (deleted.status_code, deleted.json()) == (200, {"deleted": 7})
    assert (await client.get("/items/7")).status_code == 404
    assert (await client.post("/items/", params={"item_id": 7}, json=CUP)).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_missing_item_is_404_and_named(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/items/7", json=PEN)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Item 7 not found"})
    # A refused PUT stores nothing.
    assert (await client.get("/items/7")).status_code == 404


@pytest.mark.parametrize("spelling", ["007", "%37", "+7", "%207", "7%0A", "7.0", "0_7"])
async def test_all_spellings_of_an_integer_are_one_item(client: httpx.AsyncClient, spelling: str) -> None:
    await client.post("/items/?item_id=7", json=PEN)
    assert (await client.get(f"/items/{spelling}")).json() == PEN
    assert (await client.post(f"/items/?item_id={spelling}", json=CUP)).status_code == 400


async def test_the_last_of_repeated_ids_counts(client: httpx.AsyncClient) -> None:
    await client.post("/items/?item_id=1&item_id=7", json=PEN)
    assert (await client.get("/items/7")).json() == PEN
    assert (await client.get("/items/1")).status_code == 404


@pytest.mark.parametrize("spelling", ["pen", "7.5", "7.", "7e0", "0x7", "7_", "--7", "true", "%D9%A7", "9" * 4301])
async def test_an_id_that_is_no_integer_is_refused(client: httpx.AsyncClient, spelling: str) -> None:
    assert (await client.get(f"/items/{spelling}")).status_code == 422
    assert (await client.post(f"/items/?item_id={spelling}", json=PEN)).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        '{"name": "pen"}',
        '{"name": "pen", "price": "dear"}',
        # Python's JSON reader takes these; no answer could hold them.
        '{"name": "pen", "price": NaN}',
        '{"name": "pen", "price": 1e999}',
        '{"name": "pen", "price": 1, "tax": -Infinity}',
        '{"name": NaN, "price": 1}',
        '{"name": "\\ud800", "price": 1}',
        '{"name": "pen", "description": "\\ud800", "price": 1}',
    ],
)
async def test_a_body_that_is_no_item_is_refused_and_not_stored(client: httpx.AsyncClient, body: str) -> None:
    answer = await client.post("/items/?item_id=7", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"
    assert (await client.get("/items/7")).status_code == 404


async def test_ping_tells_the_port_of_the_listening_socket(client: httpx.AsyncClient) -> None:
    # Whatever the client wrote in its Host field.
    answer = await client.get("/ping", headers={"Host": "shop.example:80"})
    assert (answer.status_code, answer.json()) == (200, {"port": 8123})


async def test_two_applications_share_no_items(client: httpx.AsyncClient) -> None:
    await client.post("/items/", params={"item_id": 7}, json=PEN)
    async with client_of(Settings(latency_s=0)) as other:
        assert (await other.get("/items/7")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ping"),
        ("GET", "/items/7"),
        ("POST", "/items/?item_id=7"),
        ("PUT", "/items/7"),
        ("DELETE", "/items/7"),
    ],
)
async def test_latency_holds_up_items_and_ping(method: str, path: str) -> None:
    async with client_of(Settings(latency_s=0.02)) as client:
        sent_at_s = time.monotonic()
        await client.request(method, path, json=PEN)
        assert time.monotonic() - sent_at_s >= 0.02


async def test_latency_does_not_hold_up_healthz() -> None:
    async with client_of(Settings(latency_s=3600)) as client, asyncio.timeout(5):
        answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_latency_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_LATENCY_S", "0.25")
    assert Settings().latency_s == 0.25


def test_there_is_no_latency_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKEND_LATENCY_S", raising=False)
    assert Settings().latency_s == 0


@pytest.mark.parametrize("value", ["-0.1", "nan", "inf", "soon"])
def test_a_bad_latency_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("BACKEND_LATENCY_S", value)
    with pytest.raises(ValidationError, match="latency_s"):
        Settings()
