"""Which item a request speaks of: `need_of` against the application, as uvicorn and FastAPI read its requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from backend.app import create_app
from backend.config import Settings
from distributer.errors import ClientError
from distributer.model import ItemId, Operation
from distributer.routing.item import ROTATE, FindOwner, ItemRules, Need, TakeClaim, canonical_int, need_of
from distributer.wire.parser import RequestParser
from distributer.wire.request import RequestHead

ITEM_BODY = b'{"name": "pen", "price": 1}'
NAMES_ITEM = re.compile(rb'\{"detail":"Item (-?\d+) (?:not found|already exists)"\}')
SAYS_NO = {307, 400, 404, 422}


# The application, behind uvicorn's own protocol: bytes in, bytes out, no socket.


class Wire(asyncio.Transport):
    """What uvicorn writes to."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8_000)})
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Application:
    """One backend. It is empty before and after each question."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        application = create_app(Settings(latency_s=0))
        self._config = uvicorn.Config(application, ws="none", lifespan="off", log_config=None, access_log=False)
        self._config.load()

    def answer(self, method: bytes, target: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request."""
        return self._runner.run(self._answer(method, target))

    async def _answer(self, method: bytes, target: bytes) -> tuple[int, bytes]:
        state, wire = ServerState(), Wire()
        protocol = HttpToolsProtocol(self._config, state, {})
        protocol.connection_made(wire)
        protocol.data_received(request(method, target, b"Content-Type: application/json\r\n", ITEM_BODY))
        while state.tasks:
            await asyncio.gather(*state.tasks)
        protocol.connection_lost(None)
        head, _, body = wire.written.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def item_of(self, method: bytes, target: bytes) -> tuple[int, str | None]:
        """Return the status, and the id of the item that the application took the request to be for."""
        status, body = self.answer(method, target)
        if is_created := method == b"POST" and status == 200:
            _, body = self.answer(method, target)  # "already exists": now it names it
        named = NAMES_ITEM.fullmatch(body)
        item = named[1].decode() if named else None
        if is_created:
            assert item is not None
            assert self.answer(b"DELETE", b"/items/" + item.encode())[0] == 200
        return status, item


def request(method: bytes, target: bytes, fields: bytes = b"", body: bytes = b"") -> bytes:
    head = b"%b %b HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n%bContent-Length: %d\r\n\r\n"
    return head % (method, target, fields, len(body)) + body


class Heads:
    """Takes the heads that the doors' parser finds."""

    def __init__(self) -> None:
        self.all: list[RequestHead] = []

    def request_started(self, head: RequestHead) -> None:
        self.all.append(head)

    def request_data(self, data: bytes) -> None: ...
    def request_finished(self) -> None: ...


def as_forwarded(method: bytes, target: bytes) -> bytes | None:
    """Return the target that the backend is sent; None if the request is refused."""
    heads = Heads()
    try:
        RequestParser(heads).feed(request(method, target))
    except ClientError:
        return None
    (head,) = heads.all
    return head.target


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    with asyncio.Runner() as runner:
        yield Application(runner)


def need_for(method: bytes, item: str) -> Need:
    match method:
        case b"POST":
            return TakeClaim(ItemId(item), Operation.CREATE)
        case b"DELETE":
            return TakeClaim(ItemId(item), Operation.DELETE)
        case _:
            return FindOwner(ItemId(item))


def check(application: Application, method: bytes, target: bytes) -> None:
    """What the application takes for item N is item N; what it refuses is sticky to nothing."""
    forwarded = as_forwarded(method, target)
    if forwarded is None:
        return
    need = need_of(method, forwarded)
    status, item = application.item_of(method, forwarded)
    if item is not None:
        assert need == need_for(method, item), f"the application takes it for item {item}"
    elif status in SAYS_NO:
        assert need == ROTATE, f"the application answers {status}"
    else:
        assert need == ROTATE or status == 405


# By hand: each spelling that is known to be a trap.

PATHS = {
    b"/items/7": "7",
    b"/items/0": "0",
    b"/items/-7": "-7",
    b"/items/007": "7",
    b"/items/-007": "-7",
    b"/items/00": "0",
    b"/items/-0": "0",
    b"/items/+7": "7",
    b"/items/%2B7": "7",
    b"/items/+-7": None,
    b"/items/--7": None,
    b"/items/7.0": "7",
    b"/items/7.000": "7",
    b"/items/-0.0": "0",
    b"/items/7.": None,
    b"/items/7.5": None,
    b"/items/.7": None,
    b"/items/7e0": None,
    b"/items/0x7": None,
    b"/items/1_000": "1000",
    b"/items/0_7": "7",
    b"/items/1__0": None,
    b"/items/_1": None,
    b"/items/1_": None,
    b"/items/1_000.0": "1000",
    b"/items/True": None,
    b"/items/pen": None,
    b"/items/7;a": None,
    # Percent-encoded, once: the whole path, slashes included, before routes are matched.
    b"/items/%37": "7",
    b"/%69tems/7": "7",
    b"/items%2F7": "7",
    b"%2Fitems/7": None,
    b"/items/%2537": None,
    b"/items/%2F7": None,
    b"/items/7%2F": None,
    b"/items/7%3Fx": None,
    b"/items/7%23x": None,
    b"/items/7%": None,
    b"/items/%": None,
    b"/items/%FF": None,
    # Spaces, and what Unicode takes for them, around the digits.
    b"/items/%207": "7",
    b"/items/7%20%20": "7",
    b"/items/%0A7": "7",
    b"/items/7%0A": "7",
    b"/items/7%0B": "7",
    b"/items/7%C2%A0": "7",
    b"/items/%E2%80%837": "7",
    b"/items/7%00": None,
    b"/items/7%1C": None,
    b"/items/7%85": None,
    b"/items/1%200": None,
    # Unicode digits are no digits; the minus sign proper is none either.
    b"/items/%D9%A7": None,
    b"/items/%EF%BC%97": None,
    b"/items/%C2%B2": None,
    b"/items/%E2%88%927": None,
    # Other paths.
    b"/": None,
    b"*": None,
    b"/ping": None,
    b"/items": None,
    b"/items/": None,
    b"/Items/7": None,
    b"/items/7/": None,
    b"/items//7": None,
    b"//items/7": None,
    b"/items/7/8": None,
    b"/items/./7": None,
    b"/items/../items/7": None,
    b"/x/../items/7": None,
    b"/items/%2e%2e/items/7": None,
    # The query is not part of the path.
    b"/items/7?": "7",
    b"/items/7?item_id=8": "7",
    b"/items/7?x=/items/8": "7",
    b"/ping?x=/items/7": None,
    # How long an integer may be.
    b"/items/" + b"9" * 19: "9" * 19,
    b"/items/" + b"9" * 20: "9" * 20,
    b"/items/" + b"9" * 4_300: "9" * 4_300,
    b"/items/" + b"9" * 4_301: None,
    b"/items/" + b"0" * 30 + b"7": "7",
    b"/items/-" + b"9" * 4_299: "-" + "9" * 4_299,
    b"/items/" + b"9" * 4_298 + b".0": "9" * 4_298,
}


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
@pytest.mark.parametrize("target", PATHS, ids=lambda target: repr(target[:40]))
def test_a_path_speaks_of_the_item_that_the_application_reads_in_it(
    application: Application, method: bytes, target: bytes
) -> None:
    item = PATHS[target]
    assert need_of(method, target) == (ROTATE if item is None else need_for(method, item))
    check(application, method, target)


CREATES = {
    b"/items/?item_id=7": "7",
    b"/items/?item_id=007": "7",
    b"/items/?item_id=+7": "7",  # a plus sign is a space here
    b"/items/?item_id=%2B7": "7",
    b"/items/?item_id=-7": "-7",
    b"/items/?item_id=7.0": "7",
    b"/items/?item_id=1_000": "1000",
    b"/items/?item_id=%37": "7",
    b"/items/?item_id=7%C2%A0": "7",
    b"/items/?item_id=" + b"9" * 4_300: "9" * 4_300,
    b"/items/?item_id=" + b"9" * 4_301: None,
    b"/items/?item_id=%D9%A7": None,
    b"/items/?item_id=%FF": None,
    b"/items/?item_id=7%00": None,
    b"/items/?item_id=pen": None,
    b"/items/?item_id=": None,
    b"/items/?item_id": None,
    b"/items/?item_id==7": None,
    b"/items/?item_id=7?": None,
    b"/items/?": None,
    b"/items/": None,
    # The last one counts.
    b"/items/?item_id=8&item_id=7": "7",
    b"/items/?item_id=x&item_id=7": "7",
    b"/items/?item_id=8&item_id=x": None,
    b"/items/?item_id=8&item_id=": None,
    b"/items/?item_id=8&item_id": None,
    b"/items/?item_id=8&%69tem_id=7": "7",
    # Names and separators.
    b"/items/?%69tem_id=7": "7",
    b"/items/?item%5Fid=7": "7",
    b"/items/?&&a=b&item_id=7&": "7",
    b"/items/?item+id=7": None,
    b"/items/?Item_id=7": None,
    b"/items/?item_id[]=7": None,
    b"/items/??item_id=7": None,
    b"/items/?a?&item_id=7": "7",
    b"/items/?x=%26item_id=7": None,
    b"/items/?item_id=7%26item_id=8": None,
    b"/items/?item_id=7;item_id=8": None,
    b"/items/?a=b;item_id=7": None,
    b"/items/?item_id=7&;item_id=8": "7",
    b"/items/#?item_id=7": None,
    # The path.
    b"/%69tems/?item_id=7": "7",
    b"/items%2f?item_id=7": "7",
    b"/items/%0A?item_id=7": "7",  # a route's `$` lets one newline through
    b"/items/%0A%0A?item_id=7": None,
    b"/items/%20?item_id=7": None,
    b"/items?item_id=7": None,
    b"/items//?item_id=7": None,
    b"//items/?item_id=7": None,
    b"/?item_id=7": None,
    b"http://shop?item_id=7": None,
}


@pytest.mark.parametrize("target", CREATES, ids=lambda target: repr(target[:40]))
def test_a_create_speaks_of_the_item_that_the_application_reads_in_its_query(
    application: Application, target: bytes
) -> None:
    item = CREATES[target]
    assert need_of(b"POST", target) == (ROTATE if item is None else need_for(b"POST", item))
    check(application, b"POST", target)


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"PATCH"])
def test_only_a_post_to_the_collection_creates(method: bytes) -> None:
    assert need_of(method, b"/items/?item_id=7") == ROTATE


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS", b"PATCH", b"POST"])
def test_whatever_else_is_asked_of_an_item_goes_to_its_owner(method: bytes) -> None:
    assert need_of(method, b"/items/7") == FindOwner(ItemId("7"))


def test_another_application_names_its_collection_and_its_parameter() -> None:
    rules = ItemRules(collection="/models/", parameter="id")
    assert need_of(b"GET", b"/models/007", rules) == need_for(b"GET", "7")
    assert need_of(b"POST", b"/models/?id=7&item_id=8", rules) == need_for(b"POST", "7")
    assert need_of(b"GET", b"/items/7", rules) == ROTATE


# By chance: texts put together from what has a meaning to some layer.


def encoded(text: str) -> st.SearchStrategy[bytes]:
    """Spell a text with any of its characters percent-encoded."""

    def spell(choices: list[bool]) -> bytes:
        return b"".join(b"%%%02X" % ord(c) if choice else c.encode() for c, choice in zip(text, choices, strict=True))

    return st.lists(st.booleans(), min_size=len(text), max_size=len(text)).map(spell)


NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25).map(str),
    st.from_regex(r"\A[ \n]?[+-]?0{0,3}[0-9_]{1,6}(\.0{0,2})?[ \t\n]?\Z", alphabet="+-0123456789_. \t\n"),
)
ENCODED_NUMBERS = NUMBERS.flatmap(lambda text: encoded(text) if text.isdigit() else encoded_all(text))


def encoded_all(text: str) -> st.SearchStrategy[bytes]:
    """Spell a text whose spaces cannot stand in a target."""
    return st.just("".join(c if c.isalnum() or c in "+-_." else f"%{ord(c):02X}" for c in text).encode())


SCRAPS = [
    b"7", b"0", b"10", b"+", b"-", b"_", b".", b".0", b"%2B", b"%37", b"%20", b"%0A", b"%09", b"%00", b"%C2%A0",
    b"%E2%80%83", b"%D9%A7", b"%FF", b"%", b"%2", b"%25", b"/", b"//", b"%2F", b"items", b"%69tems", b"/items/", b"..",
    b"?", b"%3F", b"#", b"&", b"%26", b"=", b"%3D", b";", b"item_id", b"item%5Fid", b"item_id=7", b"&item_id=8",
]  # fmt: skip
PREFIXES = st.sampled_from([b"/", b"/items", b"/items/", b"/items/?", b"/items/?item_id=", b"http://shop/items/"])
METHODS = st.sampled_from([b"GET", b"PUT", b"DELETE", b"POST"])
ANY_TARGETS = st.builds(lambda prefix, scraps: prefix + b"".join(scraps), PREFIXES, st.lists(st.sampled_from(SCRAPS)))
ITEM_TARGETS = st.tuples(encoded("items/"), ENCODED_NUMBERS).map(lambda parts: b"/" + b"".join(parts))
CREATE_TARGETS = st.builds(
    lambda pairs: b"/items/?" + b"&".join(name + b"=" + value for name, value in pairs),
    st.lists(st.tuples(st.one_of(encoded("item_id"), st.just(b"x")), ENCODED_NUMBERS), min_size=1, max_size=3),
)


@given(METHODS, ANY_TARGETS)
@example(b"POST", b"/items/%0A?item_id=7")
def test_any_target_is_read_as_the_application_reads_it(application: Application, method: bytes, target: bytes) -> None:
    check(application, method, target)


@given(st.sampled_from([b"GET", b"PUT", b"DELETE"]), ITEM_TARGETS)
def test_every_spelling_of_an_item_is_read_as_the_application_reads_it(
    application: Application, method: bytes, target: bytes
) -> None:
    check(application, method, target)


@given(CREATE_TARGETS)
def test_every_spelling_of_a_create_is_read_as_the_application_reads_it(
    application: Application, target: bytes
) -> None:
    check(application, b"POST", target)


@given(st.sampled_from([b"GET", b"POST", b"DELETE"]), st.binary())
def test_no_target_is_too_odd_to_be_routed(method: bytes, target: bytes) -> None:
    assert isinstance(need_of(method, target), Need)


@given(st.text())
def test_a_canonical_id_is_its_own(text: str) -> None:
    item = canonical_int(text)
    if item is not None:
        assert canonical_int(item) == item
        assert str(int(item)) == item
