"""Who waits for a connection to a backend; and who waits for a backend to come back.

While a backend takes no connections, one is tried for all who wait: after 0.1 s, then after twice as long each time, up
to a second, and a little sooner by chance, so that replicas do not come all at once. When one is made, those who waited
stand in the pool's line as if they had just come.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator

from distributer.errors import RequestError
from distributer.forwarding.connection import UpstreamConnection

FIRST_S = 0.1
LONGEST_S = 1.0

Deliver = Callable[[UpstreamConnection | RequestError], None]


class Waiter:
    """A request that waits for a connection. `cancel` makes it wait no more."""

    __slots__ = ("_waiting", "deadline", "deliver")

    def __init__(self, deliver: Deliver, deadline: float, waiting: OrderedDict[Waiter, None]) -> None:
        self.deliver = deliver
        self.deadline = deadline
        self._waiting = waiting
        waiting[self] = None

    def cancel(self) -> None:
        """Leave the line. Delivers nothing."""
        self._waiting.pop(self, None)

    def move(self, waiting: OrderedDict[Waiter, None], deadline: float) -> None:
        """Go to the end of another line."""
        self.cancel()
        self.deadline = deadline
        self._waiting = waiting
        waiting[self] = None


class Absence:
    """Those who wait for one backend to come back. Times are coarse, in seconds."""

    __slots__ = ("_delay_s", "_try_at", "_waiting")

    def __init__(self) -> None:
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._try_at = 0.0
        self._delay_s = FIRST_S

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, deliver: Deliver, until: float, now: float) -> Waiter:
        """Wait until then at the latest."""
        if not self._waiting:
            self._delay_s = FIRST_S
            self._plan(now)
        return Waiter(deliver, until, self._waiting)

    def is_due(self, now: float) -> bool:
        """Whether to try now; then the next try is later."""
        if not self._waiting or now < self._try_at:
            return False
        self._delay_s = min(self._delay_s * 2, LONGEST_S)
        self._plan(now)
        return True

    def expired(self, now: float) -> Iterator[Waiter]:
        """Take out, one by one, who has waited for long enough. Others may leave meanwhile."""
        for waiter in [waiter for waiter in self._waiting if waiter.deadline <= now]:
            if waiter in self._waiting:
                waiter.cancel()
                yield waiter

    def end(self, line: OrderedDict[Waiter, None], deadline: float) -> None:
        """It is back: have all stand in line, until then."""
        for waiter in tuple(self._waiting):
            waiter.move(line, deadline)

    def _plan(self, now: float) -> None:
        self._try_at = now + self._delay_s * random.uniform(0.7, 1.0)  # noqa: S311 - not a secret
