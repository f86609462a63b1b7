"""A FastAPI application that forwards some of its paths: `uvicorn examples.embedded:app --port 8080`.

Backends and Redis come from `DISTRIBUTER_BACKENDS` and `DISTRIBUTER_REDIS`; by default the four that
`scripts/run_servers.py` starts, and the Redis on this machine.
"""

from __future__ import annotations

from fastapi import FastAPI

from distributer import DistributerMiddleware, Settings, replica

DEMO_BACKENDS = "http://127.0.0.1:8000,http://127.0.0.1:8001,http://127.0.0.1:8002,http://127.0.0.1:8003"

settings = Settings()
if not settings.backends:
    settings = Settings(backends=DEMO_BACKENDS)

app = FastAPI()
app.add_middleware(DistributerMiddleware, open_core=replica(settings), paths=["/items", "/ping"])


@app.get("/")
async def home() -> dict[str, str]:
    """Answer here: this path is not forwarded."""
    return {"hello": "this is the application's own; try /ping and /items/7"}
