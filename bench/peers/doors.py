"""How our own doors are started."""

from __future__ import annotations

import sys

from bench.peers.peer import Launch, Site

TICKETS_KEY = "distributer:rotation"


def express(site: Site) -> Launch:
    argv = [sys.executable, "-m", "distributer", "serve", "--host", "127.0.0.1", "--port", str(site.port)]
    argv += ["--replicas", str(site.workers), "--redis", site.redis(), "--admin-port", str(site.spare_port)]
    for backend in site.backends:
        argv += ["--backend", backend]
    return Launch(argv)


def asgi(site: Site) -> Launch:
    argv = [sys.executable, "-m", "uvicorn", "distributer.app:app", "--port", str(site.port)]
    argv += ["--no-access-log", "--no-proxy-headers", "--ws", "none", "--loop", "uvloop", "--http", "httptools"]
    argv += ["--log-level", "warning", "--workers", str(site.workers)]
    return Launch(argv, {"DISTRIBUTER_BACKENDS": ",".join(site.backends), "DISTRIBUTER_REDIS": site.redis()})
