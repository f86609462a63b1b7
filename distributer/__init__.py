"""Stateless HTTP load distributers that share an exact rotation and a sticky item map in Redis.

from distributer import DistributerMiddleware, Settings, replica

app = FastAPI()
app.add_middleware(
    DistributerMiddleware,
    open_core=replica(Settings(backends="http://10.0.0.1:8000,http://10.0.0.2:8000")),
    paths=["/items"],
)
"""

from distributer.config import Settings
from distributer.control.replica import open_replica, replica
from distributer.doors.asgi import DistributerMiddleware

__all__ = ["DistributerMiddleware", "Settings", "open_replica", "replica"]
