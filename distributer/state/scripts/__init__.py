"""The scripts that Redis runs, each atomic: the transitions of `routing/`, where the state is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the name under which Redis remembers it (EVALSHA)."""

    source: str
    sha1: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False)
        object.__setattr__(self, "sha1", digest.hexdigest())


def _load(*parts: str) -> Script:
    here = files(__name__)
    return Script("\n".join((here / part).read_text("utf-8") for part in parts))


BEGIN = _load("claims.lua", "begin.lua")
SETTLE = _load("claims.lua", "settle.lua")
DOUBTS = _load("claims.lua", "doubts.lua")
RESOLVE = _load("claims.lua", "resolve.lua")
BIND = _load("claims.lua", "bind.lua")
TOUCH = _load("claims.lua", "touch.lua")
EXPIRE = _load("claims.lua", "expire.lua")
RELEASE = _load("release.lua")
CHANGE = _load("history.lua", "change.lua")
READ = _load("history.lua", "read.lua")
LEASE = _load("lease.lua")
HEALTH = _load("health.lua")
