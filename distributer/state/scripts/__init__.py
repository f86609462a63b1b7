"""The scripts that Redis runs, each atomic: the transitions of `routing/claim.py` where the state is."""

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


def _load(name: str) -> Script:
    here = files(__name__)
    return Script("\n".join((here / part).read_text("utf-8") for part in ("claims.lua", f"{name}.lua")))


BEGIN = _load("begin")
SETTLE = _load("settle")
DOUBTS = _load("doubts")
RESOLVE = _load("resolve")
