"""Stateless HTTP load distributers that share an exact rotation and a sticky item map in Redis.

from distributer import DistributerMiddleware, Settings, replica

app = FastAPI()
app.add_middleware(
    DistributerMiddleware,
    open_core=replica(Settings(backends="http://10.0.0.1:8000,http://10.0.0.2:8000")),
    paths=["/items"],
)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributer.config import Settings
    from distributer.control.replica import open_replica, replica
    from distributer.doors.asgi import DistributerMiddleware

__all__ = ["DistributerMiddleware", "Settings", "open_replica", "replica"]

_PLACES = {
    "DistributerMiddleware": "distributer.doors.asgi",
    "Settings": "distributer.config",
    "open_replica": "distributer.control.replica",
    "replica": "distributer.control.replica",
}
"""Imported when they are asked for: all of it takes 0.3 s, and the program has something to do before (`__main__`)."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value
