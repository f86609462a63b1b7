"""One request and its answer: which backend, which connection, tried how often, answered with what.

It goes through the phases of `phase.py`. Everything is a callback: it costs no task and no future. The request's body
flows as soon as there is a connection; until then, and until something of the answer is let out, its beginning is kept,
so that it can be sent again. What follows an attempt that failed is in `retried.py`. Creates and deletes are claimed
first (`claimed.py`).
"""

from __future__ import annotations

import time
from typing import Final

from distributer.errors import (
    ClientError,
    ClientGone,
    ConnectionStale,
    LoopDetected,
    RequestError,
    StateError,
    Unroutable,
    UpstreamError,
    UpstreamTimeout,
)
from distributer.forwarding.absence import Waiter
from distributer.forwarding.claimed import ClaimedRequest
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.downstream import NOBODY, Downstream
from distributer.forwarding.held import HeldAnswer
from distributer.forwarding.hinted import HintedRequest, hint_for
from distributer.forwarding.limits import HELD_ANSWER_BYTES
from distributer.forwarding.locate import Located
from distributer.forwarding.metrics import BackendMetrics
from distributer.forwarding.phase import ANSWERING, CONNECTING, DONE, FORWARDING, HOLDING, NEW, ROUTING, Phase
from distributer.forwarding.request_body import RequestBody
from distributer.forwarding.retried import RetriedRequest
from distributer.forwarding.tunnel import StreamEnd, Tunnel
from distributer.model import Backend, ItemId, Outcome, Ticket
from distributer.routing.item import FindOwner, Rotate, need_of
from distributer.routing.retry import OwnerDown
from distributer.routing.route import Decision, Reason, Route, TakeTicket, choose_by_owner, choose_by_ticket
from distributer.wire.fields import Field, Framing
from distributer.wire.forwarded import Origin
from distributer.wire.problem import problem
from distributer.wire.request import RequestHead, upstream_head
from distributer.wire.response import ResponseHead

_ROUTING_FIELDS = frozenset({b"x-distributer-backend", b"x-distributer-route", b"x-distributer-ticket"})


_BY_LENGTH: Final = Framing.LENGTH
_BY_CHUNKS: Final = Framing.CHUNKED
_REBIND: Final = OwnerDown.REBIND
_NONE: Final[frozenset[Backend]] = frozenset()


class Exchange:
    """One request on its way. Doors call the public methods; the connection calls those of `UpstreamUser`."""

    __slots__ = (
        "_answer",
        "_body",
        "_connection",
        "_core",
        "_counts",
        "_downstream",
        "_exchanged",
        "_held",
        "_origin",
        "_reading_paused",
        "_request_done",
        "_retried",
        "_started_at",
        "_switching",
        "_waiter",
        "body_bytes",
        "claimed",
        "head",
        "holder",
        "item",
        "phase",
        "request_id",
        "route",
        "tried",
    )

    def __init__(self, core: ForwardingCore, head: RequestHead, downstream: Downstream, origin: Origin) -> None:
        self.head = head
        self.phase: Phase = NEW
        self.request_id = head.request_id or core.new_request_id()
        self.route: Route | None = None
        self.item: ItemId | None = None
        self.body_bytes = 0
        """How much of the request's body has come."""
        self.tried: frozenset[Backend] = _NONE
        """The backends that are not to be tried again: they refused a connection, or lost one."""
        self._core = core
        self._downstream = downstream
        self._origin = origin
        self.claimed: ClaimedRequest | None = None
        self.holder: ClaimedRequest | HintedRequest | None = None
        """Who must learn the answer's status before the answer may go out."""
        self._held: HeldAnswer | None = None
        self._connection: UpstreamConnection | None = None
        self._counts: BackendMetrics | None = None
        self._waiter: Waiter | None = None
        self._exchanged = 0
        self._retried: RetriedRequest | None = None
        self._body: RequestBody | None = None
        self._request_done = False
        self._reading_paused = False  # the client is held back: there is no connection yet, or the backend is slow
        self._started_at = 0.0
        self._answer: ResponseHead | None = None
        self._switching: ResponseHead | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.head.method!r} {self.head.target!r} {self.phase.name}>"

    @property
    def is_request_complete(self) -> bool:
        """Whether all of the request has come."""
        return self._request_done

    @property
    def client(self) -> str:
        """The address of the client, as far as it can be known: behind trusted proxies, the one that they name."""
        return self._origin.client(self.head.forwarded)

    @property
    def routing_fields(self) -> list[Field]:
        """What the answer tells about the way of its request: nothing, unless the settings want it."""
        route = self.route
        if route is None or not self._core.options.routing_headers:
            return []
        fields: list[Field] = [
            (b"X-Distributer-Backend", route.backend.url.encode()),
            (b"X-Distributer-Route", route.reason.value.encode()),
        ]
        if route.ticket is not None:
            fields.append((b"X-Distributer-Ticket", b"%d" % route.ticket))
        return fields

    def problem(self, error: RequestError) -> tuple[ResponseHead, bytes]:
        """Make the answer to an error. Who sees how requests are routed may know where they failed, too."""
        tells_all = self._core.options.routing_headers
        return problem(error, self.request_id, self.routing_fields, tells_all=tells_all)

    @property
    def is_held_back(self) -> bool:
        """Whether its body must wait: there is no connection to the backend yet, or the backend is slow."""
        return self._reading_paused

    def may_fill(self, size: int) -> bool:
        """Whether as many bytes may all be of its body."""
        head = self.head
        return head.framing is _BY_CHUNKS or head.content_length - self.body_bytes >= size

    # What doors call.

    def start(self) -> None:
        """Set the exchange going."""
        self.phase = ROUTING
        self._started_at = time.perf_counter()
        core, head = self._core, self.head
        core.metrics.requests += 1
        if head.section.forwarded and self._origin.is_loop(head.forwarded):
            self._abort(LoopDetected("the request has been passed on in a circle: see its Via"))
            return
        if head.framing is _BY_LENGTH and head.content_length > core.options.clients.max_body_bytes:
            self._abort(self._too_large())
            return
        need = need_of(head.method, head.target, core.options.rules)
        if isinstance(need, Rotate):
            core.store.ticket(self._got_ticket)
        elif isinstance(need, FindOwner):
            self.item = need.item
            core.store.owner(need.item, self._got_owner)
        else:
            self.item = need.item
            self.claimed = self.holder = ClaimedRequest(core, self, need)
            self.claimed.begin()

    def body(self, data: bytes) -> None:
        """Take some of the request's body; never none."""
        self.body_bytes += len(data)
        if self.body_bytes > self._core.options.clients.max_body_bytes:
            self.refuse(self._too_large())
            return
        connection, body = self._connection, self._body
        if connection is None and self.phase >= FORWARDING:
            return  # the backend has answered without it
        if body is None:
            body = self._body = RequestBody(is_chunked=self.head.framing is _BY_CHUNKS)
        frame = body.take(data)
        if connection is None:
            if body.is_long:
                self.pause_sending()
            return
        if body.is_long and body.is_kept:
            body.forget()
        if self.claimed is not None and self.claimed.is_late():
            self.expire()
            return
        connection.send_more(frame, done=False)

    def body_finished(self, trailers: bytes = b"") -> None:
        """The request is complete. `trailers`: its trailer section, serialised."""
        self._request_done = True
        end = b""
        if self.head.framing is _BY_CHUNKS:
            if self._body is None:
                self._body = RequestBody(is_chunked=True)
            end = self._body.end(trailers)
        if self._connection is not None:
            if end and self.claimed is not None and self.claimed.is_late():
                self.expire()
                return
            self._connection.send_more(end, done=True)

    def client_gone(self) -> None:
        """The client has left."""
        if self._held is not None:
            self._held.to = self._downstream = NOBODY
            return
        if self.phase is DONE:
            return
        claimed, connection = self.claimed, self._connection
        self._downstream = NOBODY
        if claimed is not None and connection is not None and self._request_done:
            # The outcome of a create or delete is worth waiting for, or the item stays in doubt.
            connection.resume_reading()
            return
        self._cut_request()
        self._end(ClientGone.status, is_failure=False)

    def refuse(self, error: ClientError) -> None:
        """The client broke a rule within its request's body: no backend may take that for a complete one."""
        if self.phase is DONE:
            return
        self._cut_request()
        if self.phase is ANSWERING:
            self._core.metrics.refused(error.status)
            self._cut(error)
        else:
            self._abort(error)

    def pause_answer(self) -> None:
        """The client takes no more of the answer for now."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_answer(self) -> None:
        """The client takes more again."""
        if self._connection is not None and self._held is None:
            self._connection.resume_reading()

    # Routing.

    @property
    def is_routing(self) -> bool:
        """Whether it still waits for where to go."""
        return self.phase is ROUTING

    def follow(self, decision: Decision) -> None:
        """Go where the request must go, or be refused."""
        if isinstance(decision, Route):
            self._go(decision)
        elif isinstance(decision, Unroutable):
            self._abort(decision)
        else:
            if decision is TakeTicket.ANOTHER:
                self._exchanged += 1
                self._core.metrics.tickets_exchanged += 1
            self._core.store.ticket(self._got_ticket)

    def _got_ticket(self, answer: Ticket | StateError) -> None:
        if self.phase is not ROUTING:
            return
        core = self._core
        if isinstance(answer, StateError):
            core.metrics.degraded += 1
            # Behind those of the epoch. It is nobody else's business, so the route does not show it.
            local = Ticket(core.ring.after + core.fallback.ticket())
            decision = choose_by_ticket(local, core.ring, self.tried, self._exchanged)
            if isinstance(decision, Route):
                decision = Route(decision.backend, decision.reason)
            self.follow(decision)
            return
        self.follow(choose_by_ticket(answer, core.ring, self.tried, self._exchanged))

    def _got_owner(self, answer: str | StateError | None) -> None:
        if self.phase is not ROUTING:
            return
        core, item = self._core, self.item
        assert item is not None
        if answer is None:
            self.follow_unbound(Reason.STICKY)
            return
        decision = choose_by_owner(item, answer, core.ring, Reason.STICKY)
        if isinstance(answer, StateError):
            remembered = core.fallback.owner(item)
            if remembered is not None:
                core.metrics.degraded += 1
                decision = choose_by_owner(item, remembered, core.ring, Reason.REMEMBERED)
        else:
            core.fallback.remember(item, answer)
            if core.options.owner_down is _REBIND and isinstance(decision, Route) and core.is_gone(decision.backend):
                self._recovery.owner_gone(decision.backend)
                return
        self.follow(decision)

    def follow_unbound(self, reason: Reason) -> None:
        """Go where the item may be all the same, or take a ticket."""
        core, item = self._core, self.item
        assert item is not None
        if core.locator is not None and reason is Reason.STICKY:
            core.locator.find(item, self._located)
            return
        backend = hint_for(core, item)
        if backend is not None:
            self.holder = HintedRequest(core, self, item, reason)
            self.follow(Route(backend, reason))
            return
        core.fallback.forget_binding(item)
        self.follow(TakeTicket.FIRST)

    def _located(self, found: Located) -> None:
        if self.phase is not ROUTING:
            return
        core, item = self._core, self.item
        assert item is not None
        if found.owner is None:
            core.fallback.forget(item)
        else:
            core.fallback.remember(item, found.owner)
        self.follow(choose_by_owner(item, found.owner, core.ring, Reason.STICKY))

    # Attempts.

    def _go(self, route: Route) -> None:
        self.route = route
        pool = self._core.pool(route.backend)
        connection = pool.idle()
        if connection is not None:
            self._send(connection)
        else:
            self.connect(route)

    def connect(self, route: Route) -> None:
        """Wait for a connection, and go there."""
        self.phase = CONNECTING
        self._waiter = self._core.pool(route.backend).acquire(self._connected)

    def await_return(self, route: Route, until: float) -> None:
        """Wait for the backend to come back, until then, and go there."""
        self.phase = CONNECTING
        self._waiter = self._core.pool(route.backend).await_return(self._connected, until)

    def _connected(self, result: UpstreamConnection | RequestError) -> None:
        self._waiter = None
        if isinstance(result, UpstreamConnection):
            self._send(result)
        elif isinstance(result, UpstreamError):
            self._attempt_failed(result)
        else:
            self.give_up(result)

    def _send(self, connection: UpstreamConnection) -> None:
        route, body = self.route, self._body
        assert route is not None
        if self.claimed is not None and self.claimed.is_late():
            self._core.pool(route.backend).give_back(connection)
            self.expire()
            return
        self.phase = FORWARDING
        self._connection = connection
        counts = self._core.metrics.backend(route.backend.id)
        counts.requests += 1
        counts.in_flight += 1
        self._counts = counts
        data = upstream_head(self.head, route.backend.authority, self._origin, self.request_id)
        if self._reading_paused:
            # Before the rest, which may fill the connection and hold the client back again.
            self.resume_sending()
        if body is not None:
            data += body.kept
            if body.is_long:
                body.forget()
        connection.send(self, data, answers_head=self.head.method == b"HEAD", done=self._request_done)

    def _attempt_failed(self, error: UpstreamError) -> None:
        """Go on when an attempt has failed before anything of its answer was let out."""
        route = self.route
        assert route is not None
        self.phase = ROUTING
        self._recovery.failed(route, error)

    @property
    def _recovery(self) -> RetriedRequest:
        if self._retried is None:
            self._retried = RetriedRequest(self._core, self)
        return self._retried

    @property
    def is_body_kept(self) -> bool:
        """Whether all that has come of the request's body can be sent again."""
        return self._body is None or self._body.is_kept

    # The answer: what the connection calls.

    def response_started(self, head: ResponseHead) -> None:
        if head.status == 101:
            if not head.switches_as_offered(self.head.upgrade):
                raise ValueError("it switched to another protocol unasked")
            self._switching = head
            return
        if head.status < 200:
            if self.head.is_http11 and (head.status != 100 or self.head.expects_continue):
                self._downstream.interim(head)
            return
        route = self.route
        assert route is not None
        self.phase = HOLDING
        self._answer = head
        core = self._core
        core.note_reached(route.backend, head.status)
        if core.options.routing_headers:
            # A backend cannot say where its answer came from: the client is to believe these fields.
            head = head.with_fields(self.routing_fields, instead_of=_ROUTING_FIELDS)
        holder = self.holder
        if holder is None:
            self._downstream.start(head)
            return
        # Whoever has the answer finds the sticky map to agree with it.
        self.phase = ANSWERING
        held = HeldAnswer(self._downstream, core.options.clients.answer_buffer_bytes, self.pause_answer)
        self._held = self._downstream = held
        held.start(head)
        holder.hold(held, head.status, route.backend.url)

    def response_data(self, data: bytes) -> None:
        self._downstream.write(data)

    def response_finished(self, trailers: bytes) -> None:
        counts, answer = self._counts, self._answer
        assert counts is not None
        assert answer is not None
        self._connection = None
        counts.answered(answer.status, time.perf_counter() - self._started_at)
        self._end(answer.status, is_failure=False)
        self._downstream.finish(trailers if trailers and self.head.takes_trailers else b"")

    def response_switched(self, rest: bytes) -> None:
        head, route, connection, core = self._switching, self.route, self._connection, self._core
        assert head is not None
        assert route is not None
        assert connection is not None
        assert self._counts is not None
        if core.options.routing_headers:
            head = head.with_fields(self.routing_fields, instead_of=_ROUTING_FIELDS)
        client, early = self._downstream.switch(head)
        self._connection = None
        # A claim is not settled: what became of the item is said in the other protocol, if at all. It stays in doubt.
        core.note_reached(route.backend, head.status)
        self._counts.answered(head.status, time.perf_counter() - self._started_at)
        self._end(head.status, is_failure=False)
        transport, is_writable = connection.hand_over()
        backend = StreamEnd(transport, connection, is_writable=is_writable)
        Tunnel(core, client, backend, is_websocket=head.is_websocket).start(early, rest)

    def response_flush(self) -> None:
        if self.phase is ANSWERING:
            self._downstream.flush()
        elif self.phase is HOLDING:
            answer = self._answer
            assert answer is not None
            if answer.framing is _BY_LENGTH and answer.content_length <= HELD_ANSWER_BYTES:
                self._core.holding.add(self)
            else:
                self.let_out()

    def let_out(self) -> None:
        """Hold the answer no more: from now on it cannot be another's."""
        if self.phase is HOLDING:
            self.phase = ANSWERING
            if self._body is not None:
                self._body.forget()
            self._downstream.flush()

    def upstream_failed(self, error: UpstreamError) -> None:
        self._connection = None
        route = self.route
        assert route is not None
        # Not of one that was closed for being idle, or whose client has not sent all; and once for each request, or a
        # request that backends cannot bear would be counted at many.
        if self._request_done and self._retried is None and not isinstance(error, ConnectionStale):
            self._core.note_failed(route.backend, str(error))
        if self.phase is ANSWERING:
            self._core.failed_attempts.note(route.backend, error, self._core.clock.now)
            self._cut(error)
            return
        if self.phase is HOLDING:
            self._downstream.withdraw()
        self._count_out()
        self._attempt_failed(error)

    def pause_sending(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._downstream.pause_reading()

    def resume_sending(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._downstream.resume_reading()

    # What the claim calls.

    def forget_claim(self) -> None:
        """Have no claim any more."""
        self.claimed = self.holder = None

    def release(self, answer: HeldAnswer) -> None:
        """Let the answer out that was held."""
        self._held = None
        self._downstream = answer.to
        if answer.to is NOBODY and self.phase is not DONE:
            # The outcome is known, and nobody waits for the rest.
            self._leave_backend()
            self._end(ClientGone.status, is_failure=False)
            return
        self.resume_answer()  # before the rest, which may fill the client's transport and hold the backend back again
        answer.replay()

    def expire(self) -> None:
        """A claimed request has taken too long: cut it, before its claim's deadline passes."""
        limit_s = self._core.options.claim_timeout_s
        self.give_up(UpstreamTimeout(f"the item's request took longer than {limit_s:g} s", sent=self._leave_backend()))

    # The ends.

    def _too_large(self) -> ClientError:
        bound = self._core.options.clients.max_body_bytes
        return ClientError(f"the body is larger than {bound} bytes", 413, "Content too large")

    def _leave_backend(self) -> bool:
        """Wait for no connection any more, and cut the one there is. Return whether anything may have been sent."""
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None
        connection, self._connection = self._connection, None
        if connection is not None:
            # A create must not come to its backend after its claim's deadline.
            connection.abandon(by_reset=self.claimed is not None)
        return connection is not None

    def _cut_request(self) -> None:
        """Leave the backend for the client's sake. A claim under which nothing was sent is given back."""
        was_sent = self._leave_backend()
        if self.claimed is not None and not was_sent and self.route is not None and not self.claimed.in_doubt:
            self.claimed.settle(self.route.backend.url, Outcome.FAILED)

    def _count_out(self, *, is_failure: bool = True) -> None:
        """Count an attempt out."""
        counts = self._counts
        assert counts is not None
        counts.in_flight -= 1
        counts.failures += is_failure

    def give_up(self, error: RequestError) -> None:
        """End without an answer from a backend; a claim under which nothing was sent is given back first."""
        claimed, route = self.claimed, self.route
        may_have_been_sent = isinstance(error, UpstreamError) and error.sent
        if claimed is None or route is None or may_have_been_sent or claimed.in_doubt:
            self._abort(error)
        else:
            claimed.give_back(route.backend.url, lambda _error: self._abort(error))

    def _cut(self, error: RequestError) -> None:
        self._end(error.status, is_failure=isinstance(error, UpstreamError))
        self._downstream.abort(error)

    def _abort(self, error: RequestError) -> None:
        if self.phase is not DONE:
            self._core.metrics.refused(error.status)
            self._end(error.status, is_failure=False)
            self._downstream.abort(error)

    def _end(self, status: int, *, is_failure: bool) -> None:
        phase = self.phase
        if phase is HOLDING or phase is ANSWERING or phase is FORWARDING:
            self._count_out(is_failure=is_failure)
            if self._core.holding:
                self._core.holding.discard(self)
        self.phase = DONE
        if self.claimed is not None:
            self.claimed.leave()
        if self._core.on_answer is not None:
            self._core.on_answer(self, status)
