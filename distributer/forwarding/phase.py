"""The phases of an exchange.

phase       waits for                       goes on to
----------  ------------------------------  -----------------------------------------------------------
NEW         `start`                         ROUTING
ROUTING     a ticket, an owner or a claim   CONNECTING, FORWARDING; DONE (refused)
CONNECTING  a connection                    FORWARDING; ROUTING (none could be made); DONE
FORWARDING  the answer's head               HOLDING; ANSWERING (claims, hints); ROUTING (failed); DONE
HOLDING     the end of a read               ANSWERING; DONE. A small answer that is not complete then: its
                                            end, or a tick or two; ROUTING (failed: it is withdrawn)
ANSWERING   the answer's end                DONE
DONE        nothing
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Phase(IntEnum):
    """How far an exchange has come."""

    NEW = 0
    ROUTING = 1
    CONNECTING = 2
    FORWARDING = 3
    HOLDING = 4
    ANSWERING = 5
    DONE = 6


# The path of each request looks at them: through their Enum that takes longer.
NEW: Final = Phase.NEW
ROUTING: Final = Phase.ROUTING
CONNECTING: Final = Phase.CONNECTING
FORWARDING: Final = Phase.FORWARDING
HOLDING: Final = Phase.HOLDING
ANSWERING: Final = Phase.ANSWERING
DONE: Final = Phase.DONE
