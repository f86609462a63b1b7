"""Every Redis key: the schema.

| key | type | what | written by, and gone when |
|---|---|---|---|
| `P:rotation` | string | tickets taken so far | INCRBY, `begin.lua`; never |
| `P:sticky` | hash | item → owner's base URL, pending ones too | `begin`, `settle`, `resolve`, redis-cli; unbound |
| `P:expiry` | zset | item → when its binding ends, ms, where the server cannot do that itself | as `:sticky`; unbound |
| `P:claims` | hash | item → JSON of the claims on it (`routing/claim.py`) | `begin`, `settle`, `resolve`; all settled |
| `P:backends` | hash | backend id → JSON: url, position, state, joined, source | `change`; removed |
| `P:topology` | string | version of `P:backends`: raised on each change, never the same again | `change`; never |
| `P:epoch` | string | JSON: the counter at the last change, where the ring went on, on which server | `change`; never |
| `P:health` | hash | backend id → JSON: status, since, reason, until, times | the prober; removed, maint |
| `P:failures` | hash | backend id → failures in a row; `<id> why`, `<id> refused` | replicas; an answer, a verdict |
| `P:replicas` | zset | replica id → last heartbeat, Redis TIME, seconds | each replica, each second; 60 s of silence |
| `P:replica:<id>` | string | JSON: version, address, pid, counters | that replica, each second; expires 5 s later |
| `P:prober` | string | the replica that probes the backends, and asks them about doubts | lease; expires in 2 s |
| `P:events` | channel | what has changed: `topology`, `health`, `failures` | whoever changes it |

`P` is the prefix, `distributer` unless configured. On Redis Cluster it must hold a hash tag, `{distributer}`, since the
scripts touch several keys at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_NAMES = (
    "rotation",
    "sticky",
    "expiry",
    "claims",
    "backends",
    "topology",
    "epoch",
    "health",
    "failures",
    "replicas",
    "prober",
    "events",
)


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys under one prefix."""

    prefix: str = "distributer"
    rotation: str = field(init=False)
    sticky: str = field(init=False)
    expiry: str = field(init=False)
    claims: str = field(init=False)
    backends: str = field(init=False)
    topology: str = field(init=False)
    epoch: str = field(init=False)
    health: str = field(init=False)
    failures: str = field(init=False)
    replicas: str = field(init=False)
    prober: str = field(init=False)
    events: str = field(init=False)

    def __post_init__(self) -> None:
        for name in _NAMES:
            object.__setattr__(self, name, f"{self.prefix}:{name}")

    def replica(self, replica_id: str) -> str:
        """Name the key of one replica's snapshot."""
        return f"{self.prefix}:replica:{replica_id}"
