"""The items that a backend lists: `GET {list_path}?limit=N&after=ID`, page by page.

    [1, 2, 7]    or    [{"id": 1, …}, {"id": 2, …}, {"id": 7, …}]

An answer is 200, and a JSON list of ids, or of objects with an `id`; ids are what stands in the paths of items. The
first page is asked for without `after`, each next one with the last id of the page before, in whatever order the
backend has. An empty list ends it. Anything else, and an id that comes twice, ends it with an error: a list that is
read wrongly would bind items to backends that have them not.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

from distributer.errors import DistributerError, RequestError
from distributer.forwarding.pool import BackendPool
from distributer.forwarding.question import fetch, question
from distributer.model import ItemId
from distributer.routing.item import canonical_int

PAGE = 1_000
PAGE_TIMEOUT_S = 10.0
MAX_PAGE_BYTES = 64 << 20


class ListingError(DistributerError):
    """A backend cannot say which items it has; the message says why."""


async def listed(pool: BackendPool, list_path: str) -> AsyncIterator[Sequence[ItemId]]:
    """List the items of a backend, page by page. Raises ListingError."""
    seen: set[ItemId] = set()
    target = f"{list_path}?limit={PAGE}"
    while True:
        try:
            head = question(pool.backend, target.encode())
            status, body = await fetch(pool, head, PAGE_TIMEOUT_S, MAX_PAGE_BYTES)
        except (RequestError, TimeoutError) as error:
            raise ListingError(str(error) or f"no answer within {PAGE_TIMEOUT_S:g} s") from error
        if status != 200:
            raise ListingError(f"GET {target} was answered with status {status}")
        page = page_of(body)
        if not page:
            return
        before = len(seen)
        seen.update(page)
        if len(seen) < before + len(page):
            raise ListingError(f"GET {target} lists items that came before: does it heed `after`?")
        yield page
        target = f"{list_path}?limit={PAGE}&after={quote(page[-1], safe='')}"


def page_of(body: bytes) -> Sequence[ItemId]:
    """Read one page. Raises ListingError, saying what is wrong with it."""
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ListingError(f"the list is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise ListingError(f"the list is {type(entries).__name__}, not a JSON list")
    return [_id(entry) for entry in entries]


def _id(entry: object) -> ItemId:
    value = entry.get("id") if isinstance(entry, dict) else entry
    item = canonical_int(str(value)) if type(value) in (int, str) else None
    if item is None:
        raise ListingError(f"{json.dumps(entry):.100} is no item id, and no object with one")
    return item
