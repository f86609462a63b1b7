"""One request and its answer: which backend, which connection, tried how often, answered with what.

    phase       waits for                       goes on to
    ----------  ------------------------------  -----------------------------------------------------------
    NEW         `start`                         ROUTING
    ROUTING     a ticket, an owner or a claim   CONNECTING, FORWARDING; DONE (refused)
    CONNECTING  a connection                    FORWARDING; ROUTING (connect failed, next backend); DONE
    FORWARDING  the answer's head               ANSWERING; CONNECTING (stale connection, once); DONE (a tunnel, too)
    ANSWERING   the answer's end                DONE
    DONE        nothing

Everything is a callback: an exchange costs no task and no future. The request's body flows as soon as there is a
connection; until then, and until the first byte of the answer, its beginning is kept, so that it can be sent again.

The answer to a create or delete waits until its claim is settled, so that whoever has the answer finds the sticky map
to agree with it.
"""

from __future__ import annotations

import time
from enum import IntEnum

from distributer.errors import (
    ClientGone,
    ConnectFailed,
    ConnectionStale,
    RequestError,
    StateError,
    Unroutable,
    UpstreamError,
    UpstreamTimeout,
)
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.downstream import NOBODY, Downstream
from distributer.forwarding.pool import Waiter
from distributer.forwarding.tunnel import StreamEnd, Tunnel
from distributer.model import Backend, Begun, Claim, ItemId, Operation, Outcome, Ticket
from distributer.routing.claim import outcome_of
from distributer.routing.item import FindOwner, Rotate, TakeClaim, need_of
from distributer.routing.route import Decision, Reason, Route, TakeTicket, choose_by_owner, choose_by_ticket
from distributer.wire.head import LAST_CHUNK, Framing, RequestHead, ResponseHead, chunk, upstream_head

KEPT_BODY_BYTES = 64 * 1024
"""How much of a request's body is kept to be sent again, and is taken before there is a connection."""
HELD_ANSWER_BYTES = 256 * 1024
"""How much of an answer is taken while its claim is being settled."""


class Phase(IntEnum):
    NEW = 0
    ROUTING = 1
    CONNECTING = 2
    FORWARDING = 3
    ANSWERING = 4
    DONE = 5


class Exchange:
    """One request on its way. Doors call the public methods; the connection calls those of `UpstreamUser`."""

    __slots__ = (
        "_body_bytes",
        "_claim",
        "_connection",
        "_core",
        "_downstream",
        "_exchanged",
        "_held",
        "_held_bytes",
        "_in_doubt",
        "_is_retried",
        "_kept",
        "_origin_fields",
        "_reading_paused",
        "_request_done",
        "_started_at",
        "_status",
        "_switching",
        "_tried",
        "_waiter",
        "deadline",
        "head",
        "item",
        "phase",
        "request_id",
        "route",
    )

    def __init__(self, core: ForwardingCore, head: RequestHead, downstream: Downstream, origin_fields: bytes) -> None:
        self.head = head
        self.phase = Phase.NEW
        self.request_id = head.request_id or core.new_request_id()
        self.route: Route | None = None
        self.item: ItemId | None = None
        self.deadline = 0.0
        """Coarse time, in seconds, by which a claimed request must have ended."""
        self._core = core
        self._downstream = downstream
        self._origin_fields = origin_fields
        self._claim: Claim | None = None
        self._connection: UpstreamConnection | None = None
        self._waiter: Waiter | None = None
        self._tried: set[Backend] = set()
        self._exchanged = 0
        self._is_retried = False
        self._in_doubt = False
        self._kept: list[bytes] | None = []
        self._body_bytes = 0
        self._request_done = False
        self._reading_paused = False
        self._held: list[ResponseHead | bytes | UpstreamError | None] | None = None
        self._held_bytes = 0
        self._started_at = 0.0
        self._status = 0
        self._switching: ResponseHead | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.head.method!r} {self.head.target!r} {self.phase.name}>"

    @property
    def is_request_complete(self) -> bool:
        """Whether all of the request has come."""
        return self._request_done

    @property
    def holds_back(self) -> bool:
        """Whether it has paused the reading of its body."""
        return self._reading_paused

    # What doors call.

    def start(self) -> None:
        """Set the exchange going."""
        self.phase = Phase.ROUTING
        self._started_at = time.perf_counter()
        core = self._core
        core.metrics.requests += 1
        need = need_of(self.head.method, self.head.target, core.options.rules)
        if isinstance(need, Rotate):
            core.store.ticket(self._got_ticket)
        elif isinstance(need, FindOwner):
            self.item = need.item
            core.store.owner(need.item, self._got_owner)
        else:
            self.item = need.item
            self._begin(need)

    def body(self, data: bytes) -> None:
        """Take some of the request's body; never none."""
        frame = chunk(data) if self.head.framing is Framing.CHUNKED else data
        self._take(frame)
        if self._connection is not None:
            self._connection.send_more(frame, done=False)
        elif self._body_bytes > KEPT_BODY_BYTES and not self._reading_paused and self.phase < Phase.FORWARDING:
            self._reading_paused = True
            self._downstream.pause_reading()

    def body_finished(self) -> None:
        """The request is complete."""
        self._request_done = True
        if self.head.framing is Framing.CHUNKED:
            self._take(LAST_CHUNK)
            if self._connection is not None:
                self._connection.send_more(LAST_CHUNK, done=True)
        elif self._connection is not None:
            self._connection.send_more(b"", done=True)

    def client_gone(self) -> None:
        """The client has left."""
        if self.phase is Phase.DONE:
            return
        claim, connection = self._claim, self._connection
        if self._held is not None or (claim is not None and connection is not None and self._request_done):
            # The outcome of a create or delete is worth waiting for, or the item stays in doubt.
            self._downstream = NOBODY
            if connection is not None:
                connection.resume_reading()
            return
        was_sent = self._leave_backend()
        if claim is not None and not was_sent and self.route is not None:
            self._settle(claim, self.route.backend.url, Outcome.FAILED)
        self._downstream = NOBODY
        self._end(ClientGone.status, is_failure=False)

    def pause_answer(self) -> None:
        """The client takes no more of the answer for now."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_answer(self) -> None:
        """The client takes more again."""
        if self._connection is not None and self._held is None:
            self._connection.resume_reading()

    def expire(self) -> None:
        """A claimed request has taken too long: cut it, before its claim's deadline passes."""
        if self._held is not None:
            return  # it has its answer
        error = UpstreamTimeout(
            f"the item's request took longer than {self._core.options.claim_timeout_s:g} s", sent=self._leave_backend()
        )
        if self.phase is Phase.ANSWERING:
            self._cut(error)
        else:
            self._give_up(error)

    # Routing.

    def _got_ticket(self, answer: Ticket | StateError) -> None:
        if self.phase is not Phase.ROUTING:
            return
        core = self._core
        if isinstance(answer, StateError):
            core.metrics.degraded += 1
            answer = core.fallback.ticket()
        self._follow(choose_by_ticket(answer, core.ring, self._tried, self._exchanged))

    def _got_owner(self, answer: str | StateError | None) -> None:
        if self.phase is not Phase.ROUTING:
            return
        core, item = self._core, self.item
        assert item is not None
        if isinstance(answer, StateError):
            remembered = core.fallback.owner(item)
            if remembered is not None:
                core.metrics.degraded += 1
                answer = remembered
        elif answer is None:
            core.fallback.forget(item)
        else:
            core.fallback.remember(item, answer)
        self._follow(choose_by_owner(item, answer, core.ring, Reason.STICKY))

    def _begin(self, need: TakeClaim) -> None:
        core = self._core
        claim = Claim(core.new_claim_id(), need.item, need.operation)
        self._claim = claim
        self.deadline = core.clock.now + core.options.claim_timeout_s
        core.claimed.add(self)
        core.store.begin(
            claim, core.ring.urls, core.ring.usable(self._tried), lambda answer: self._begun(claim, answer)
        )

    def _begun(self, claim: Claim, answer: Begun | StateError) -> None:
        if self.phase is not Phase.ROUTING:
            if isinstance(answer, Begun) and answer.owner is not None:
                self._settle(claim, answer.owner, Outcome.FAILED)
            return
        reason = Reason.CREATE if claim.operation is Operation.CREATE else Reason.DELETE
        if isinstance(answer, StateError):
            self._drop_claim()
            self._follow(choose_by_owner(claim.item, answer, self._core.ring, reason))
        elif answer.owner is None:
            self._drop_claim()
            if reason is Reason.CREATE:
                self._abort(Unroutable("none of the backends could be reached"))
            else:
                self._core.store.ticket(self._got_ticket)
        else:
            decision = choose_by_owner(claim.item, answer.owner, self._core.ring, reason)
            if isinstance(decision, Route):
                self._core.fallback.remember(claim.item, answer.owner)
                self._connect(Route(decision.backend, reason, answer.ticket))
            else:
                self._settle(claim, answer.owner, Outcome.FAILED)
                self._follow(decision)

    def _follow(self, decision: Decision) -> None:
        if isinstance(decision, Route):
            self._connect(decision)
        elif isinstance(decision, Unroutable):
            self._abort(decision)
        else:
            if decision is TakeTicket.ANOTHER:
                self._exchanged += 1
                self._core.metrics.tickets_exchanged += 1
            self._core.store.ticket(self._got_ticket)

    # Attempts.

    def _connect(self, route: Route) -> None:
        self.route = route
        pool = self._core.pool(route.backend)
        connection = pool.idle()
        if connection is not None:
            self._send(connection)
            return
        self.phase = Phase.CONNECTING
        self._waiter = pool.acquire(self._connected)

    def _connected(self, result: UpstreamConnection | RequestError) -> None:
        self._waiter = None
        if isinstance(result, UpstreamConnection):
            self._send(result)
        else:
            self._attempt_failed(result)

    def _send(self, connection: UpstreamConnection) -> None:
        route, kept = self.route, self._kept
        assert route is not None
        assert kept is not None
        self.phase = Phase.FORWARDING
        self._connection = connection
        metrics = self._core.metrics.backend(route.backend.id)
        metrics.requests += 1
        metrics.in_flight += 1
        data = upstream_head(self.head, route.backend.authority, self._origin_fields, self.request_id)
        if kept:
            data = b"".join([data, *kept])
        connection.send(self, data, answers_head=self.head.method == b"HEAD", done=self._request_done)
        self._forget_long_body()
        if self._reading_paused:
            self._reading_paused = False
            self._downstream.resume_reading()

    def _take(self, frame: bytes) -> None:
        if self._kept is not None:
            self._kept.append(frame)
            self._body_bytes += len(frame)
            if self._connection is not None:
                self._forget_long_body()

    def _forget_long_body(self) -> None:
        if self._body_bytes > KEPT_BODY_BYTES:
            self._kept = None

    def _attempt_failed(self, error: RequestError) -> None:
        """Decide what follows when an attempt ended before any byte of an answer."""
        route, core = self.route, self._core
        assert route is not None
        if isinstance(error, ConnectFailed):
            core.note_unreachable(route.backend)
            self._tried.add(route.backend)
            if route.reason is Reason.ROTATION:
                core.metrics.retries += 1
                self.phase = Phase.ROUTING
                core.store.ticket(self._got_ticket)
            elif route.reason is Reason.CREATE and route.ticket is not None:
                self._begin_elsewhere()
            else:
                self._give_up(Unroutable(f"item {self.item} lives there, and {error}", title="Owner unreachable"))
        elif isinstance(error, ConnectionStale) and self._may_send_again():
            core.metrics.retries += 1
            self._is_retried = True
            # A delete may have taken effect the first time: a refusal of the second says nothing then.
            self._in_doubt = True
            self.phase = Phase.CONNECTING
            self._waiter = core.pool(route.backend).acquire(self._connected)
        else:
            self._give_up(error)

    def _may_send_again(self) -> bool:
        return not self._is_retried and self._kept is not None and self.head.is_idempotent

    def _begin_elsewhere(self) -> None:
        """Give up the binding that this create has just made, to a backend that cannot be reached; begin anew."""
        claim, route, core = self._claim, self.route, self._core
        assert claim is not None
        assert route is not None
        core.metrics.retries += 1
        self.phase = Phase.ROUTING
        self._drop_claim()
        core.fallback.forget(claim.item)

        def settled(error: StateError | None) -> None:
            if self.phase is not Phase.ROUTING:
                return
            if error is None:
                self._begin(TakeClaim(claim.item, claim.operation))
            else:
                self._follow(choose_by_owner(claim.item, error, core.ring, Reason.CREATE))

        core.store.settle(claim, route.backend.url, Outcome.FAILED, settled)

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
        self.phase = Phase.ANSWERING
        self._kept = None
        self._status = head.status
        core = self._core
        core.note_reached(route.backend)
        if core.options.routing_headers:
            self._add_routing_headers(head, route)
        claim = self._claim
        if claim is None:
            self._downstream.start(head)
            return
        outcome = outcome_of(claim.operation, head.status)
        if self._in_doubt and outcome is Outcome.FAILED:
            outcome = Outcome.UNKNOWN
        self._held = [head]
        self._settle(claim, route.backend.url, outcome)

    def response_data(self, data: bytes) -> None:
        if self._held is None:
            self._downstream.write(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > HELD_ANSWER_BYTES and self._connection is not None:
            self._connection.pause_reading()

    def response_finished(self) -> None:
        self._connection = None
        if self._held is None:
            self._complete()
        else:
            self._held.append(None)

    def response_switched(self, rest: bytes) -> None:
        head, route, connection, core = self._switching, self.route, self._connection, self._core
        assert head is not None
        assert route is not None
        assert connection is not None
        if core.options.routing_headers:
            self._add_routing_headers(head, route)
        client, early = self._downstream.switch(head)
        self._connection = None
        # A claim is not settled: what became of the item is said in the other protocol, if at all. It stays in doubt.
        core.note_reached(route.backend)
        core.metrics.backend(route.backend.id).answered(head.status, time.perf_counter() - self._started_at)
        self._end(head.status, is_failure=False)
        transport, is_writable = connection.hand_over()
        backend = StreamEnd(transport, connection, is_writable=is_writable)
        Tunnel(core, client, backend, is_websocket=head.is_websocket).start(early, rest)

    def response_flush(self) -> None:
        if self._held is None and self.phase is Phase.ANSWERING:
            self._downstream.flush()

    def upstream_failed(self, error: UpstreamError) -> None:
        self._connection = None
        if self._held is not None:
            self._held.append(error)
        elif self.phase is Phase.ANSWERING:
            self._cut(error)
        else:
            self._count_out()
            self.phase = Phase.ROUTING
            self._attempt_failed(error)

    def pause_sending(self) -> None:
        self._downstream.pause_reading()

    def resume_sending(self) -> None:
        self._downstream.resume_reading()

    # Claims.

    def _settle(self, claim: Claim, owner: str, outcome: Outcome) -> None:
        core = self._core
        if claim.operation is Operation.DELETE:
            is_released = outcome is Outcome.DONE
        else:
            is_released = outcome is Outcome.FAILED and self.route is not None and self.route.ticket is not None
        if is_released:
            core.fallback.forget(claim.item)
        self._drop_claim()
        core.store.settle(claim, owner, outcome, self._settled)

    def _drop_claim(self) -> None:
        self._claim = None
        self._core.claimed.discard(self)

    def _settled(self, _error: StateError | None) -> None:
        # An error changes nothing for the client: the binding is there, pending, and the store goes on settling.
        held, self._held = self._held, None
        if held is None:
            return
        downstream = self._downstream
        for event in held:
            if event is None:
                self._complete()
                return
            if isinstance(event, ResponseHead):
                downstream.start(event)
            elif isinstance(event, bytes):
                downstream.write(event)
            else:
                self._cut(event)
                return
        downstream.flush()
        if self._connection is not None:
            self._connection.resume_reading()

    # The ends.

    def _add_routing_headers(self, head: ResponseHead, route: Route) -> None:
        head.headers.append((b"X-Distributer-Backend", route.backend.url.encode()))
        head.headers.append((b"X-Distributer-Route", route.reason.value.encode()))
        if route.ticket is not None:
            head.headers.append((b"X-Distributer-Ticket", b"%d" % route.ticket))

    def _leave_backend(self) -> bool:
        """Wait for no connection any more, and cut the one there is. Return whether anything may have been sent."""
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        return connection is not None

    def _count_out(self, *, is_failure: bool = True) -> None:
        """Count an attempt out."""
        assert self.route is not None
        metrics = self._core.metrics.backend(self.route.backend.id)
        metrics.in_flight -= 1
        metrics.failures += is_failure

    def _complete(self) -> None:
        route = self.route
        assert route is not None
        latency_s = time.perf_counter() - self._started_at
        self._core.metrics.backend(route.backend.id).answered(self._status, latency_s)
        self._end(self._status, is_failure=False)
        self._downstream.finish()

    def _give_up(self, error: RequestError) -> None:
        """End without an answer from a backend; a claim under which nothing was sent is given back first."""
        claim, route = self._claim, self.route
        may_have_been_sent = isinstance(error, UpstreamError) and error.sent
        if claim is None or route is None or may_have_been_sent or self._in_doubt:
            self._abort(error)
            return
        self._drop_claim()
        self._core.fallback.forget(claim.item)
        self._core.store.settle(claim, route.backend.url, Outcome.FAILED, lambda _error: self._abort(error))

    def _cut(self, error: UpstreamError) -> None:
        self._end(error.status, is_failure=True)
        self._downstream.abort(error)

    def _abort(self, error: RequestError) -> None:
        if self.phase is not Phase.DONE:
            self._core.metrics.refused(error.status)
            self._end(error.status, is_failure=False)
            self._downstream.abort(error)

    def _end(self, status: int, *, is_failure: bool) -> None:
        if self.phase in (Phase.ANSWERING, Phase.FORWARDING) and self.route is not None:
            self._count_out(is_failure=is_failure)
        self.phase = Phase.DONE
        self._drop_claim()
        if self._core.on_answer is not None:
            self._core.on_answer(self, status)
