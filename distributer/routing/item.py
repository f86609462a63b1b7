"""Which item a request speaks of, and what it does to it.

Keys are canonical *as the application sees them*: a FastAPI application on uvicorn decodes the whole path before it
matches routes, takes the last of repeated query parameters, and reads `int` with pydantic, so all of that is done here
in the same way. Every spelling of one item then has one key, and a text that the application would refuse has none.
The request itself is never touched: it is forwarded byte for byte as it came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from pydantic import TypeAdapter, ValidationError

from distributer.model import ItemId, Operation


@dataclass(frozen=True, slots=True)
class Rotate:
    """The request is bound to nothing: it takes a ticket of the rotation."""


@dataclass(frozen=True, slots=True)
class FindOwner:
    """The request uses an item: it goes to the owner; unbound, it takes a ticket."""

    item: ItemId


@dataclass(frozen=True, slots=True)
class TakeClaim:
    """The request creates or deletes an item: it goes where its claim says."""

    item: ItemId
    operation: Operation


Need = Rotate | FindOwner | TakeClaim
ROTATE = Rotate()


@dataclass(frozen=True, slots=True)
class ItemRules:
    """Where item ids stand in requests: `{collection}{id}` in paths, `{parameter}` in the query of a create."""

    collection: str = "/items/"
    parameter: str = "item_id"
    raw_collection: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw_collection", self.collection.encode())


DEMO_RULES = ItemRules()

_INT = TypeAdapter(int)

_COLLECTION_ITSELF = ("", "\n")
"""What may follow the collection in the path of a create: Starlette's routes end in `$`, which a newline may follow."""


def canonical_int(text: str) -> ItemId | None:
    """Read an item id as the application does: " +007" is "7", "1_000" is "1000". None if it would be refused."""
    if text.isascii() and text.isdigit() and text[0] != "0" and len(text) < 20:
        return ItemId(text)  # nearly all ids: already canonical
    try:
        return ItemId(str(_INT.validate_python(text)))
    except ValidationError:
        return None


def need_of(method: bytes, target: bytes, rules: ItemRules = DEMO_RULES) -> Need:
    """Say what must be known to route a request, from its method and its raw target: a path with its query, or `*`."""
    collection = rules.collection
    # Without a percent sign in it, a path speaks of an item only if it shows the collection.
    if target[:1] != b"/" or (b"%" not in target and not target.startswith(rules.raw_collection)):
        return ROTATE
    raw_path, _, raw_query = target.partition(b"?")
    path = unquote(raw_path.decode("latin-1")) if b"%" in raw_path else raw_path.decode("latin-1")
    if not path.startswith(collection):
        return ROTATE
    rest = path[len(collection) :]
    if rest in _COLLECTION_ITSELF:
        if method != b"POST":
            return ROTATE
        item = _item_of_query(raw_query, rules.parameter)
        return ROTATE if item is None else TakeClaim(item, Operation.CREATE)
    if "/" in rest:
        return ROTATE
    item = canonical_int(rest)
    if item is None:
        return ROTATE
    if method == b"DELETE":
        return TakeClaim(item, Operation.DELETE)
    return FindOwner(item)


def _item_of_query(query: bytes, parameter: str) -> ItemId | None:
    values = [value for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if name == parameter]
    return canonical_int(values[-1]) if values else None
