"""Where items are kept."""

from __future__ import annotations

from heapq import nsmallest
from typing import Protocol

from backend.model import Item


class ItemStore(Protocol):
    """Keep items by id.

    Each method is atomic. There is no `exists`: between a look and a write another request would fit, so every write
    says itself whether it took effect.
    """

    async def get(self, item_id: int) -> Item | None:
        """Return the item, or None if there is none."""

    async def create(self, item_id: int, item: Item) -> bool:
        """Store a new item. False, and no effect, if there is one already."""

    async def replace(self, item_id: int, item: Item) -> bool:
        """Store item in the place of the present one. False, and no effect, if there is none."""

    async def delete(self, item_id: int) -> bool:
        """Remove the item. False if there was none."""

    async def ids(self, after: int | None, limit: int) -> list[int]:
        """List the ids of items, in order: up to limit of those that come after that one."""


class MemoryStore:
    """Keep items in this process: gone when it ends.

    Atomic because no method awaits anything and one event loop runs them all.
    """

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}

    async def get(self, item_id: int) -> Item | None:
        """Return the item, or None if there is none."""
        return self._items.get(item_id)

    async def create(self, item_id: int, item: Item) -> bool:
        """Store a new item. False, and no effect, if there is one already."""
        return self._items.setdefault(item_id, item) is item

    async def replace(self, item_id: int, item: Item) -> bool:
        """Store item in the place of the present one. False, and no effect, if there is none."""
        if item_id not in self._items:
            return False
        self._items[item_id] = item
        return True

    async def delete(self, item_id: int) -> bool:
        """Remove the item. False if there was none."""
        return self._items.pop(item_id, None) is not None

    async def ids(self, after: int | None, limit: int) -> list[int]:
        """List the ids of items, in order: up to limit of those that come after that one."""
        return nsmallest(limit, (item_id for item_id in self._items if after is None or item_id > after))
