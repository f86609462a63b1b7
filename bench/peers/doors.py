"""How our own doors are started."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers.peer import Launch, Peer, Site, Unavailable

TICKETS_KEY = "distributer:rotation"

COMPILED = Path(__file__).resolve().parents[2] / ".venv-compiled" / "bin" / "python"
"""Where scripts/bench installs the wheel that scripts/compile builds."""


def express(site: Site) -> Launch:
    return _express(site, sys.executable)


def express_compiled(site: Site) -> Launch:
    return _express(site, _compiled())


def asgi(site: Site) -> Launch:
    return _asgi(site, sys.executable)


def asgi_compiled(site: Site) -> Launch:
    return _asgi(site, _compiled())


def _compiled() -> str:
    if not COMPILED.exists():
        raise Unavailable("needs a C compiler, with which scripts/bench compiles the hot path")
    return str(COMPILED)


def _express(site: Site, python: str) -> Launch:
    argv = [python, "-m", "distributer", "serve", "--host", "127.0.0.1", "--port", str(site.port)]
    argv += ["--replicas", str(site.workers), "--redis", site.redis(), "--admin-port", str(site.spare_port)]
    for backend in site.backends:
        argv += ["--backend", backend]
    return Launch(argv)


def express_of(checkout: Path) -> Peer:
    """Return the express door of another checkout, as a peer to be measured beside this one's."""

    def launch(site: Site) -> Launch:
        if not (checkout / "distributer" / "__main__.py").exists():
            raise Unavailable(f"there is no distributer in {checkout.name}")
        return Launch(express(site).argv, {"PYTHONPATH": str(checkout.resolve())})

    return Peer("before", "distributer serve, as it was before", launch, tickets_key=TICKETS_KEY)


def _asgi(site: Site, python: str) -> Launch:
    argv = [python, "-m", "uvicorn", "distributer.app:app", "--port", str(site.port)]
    argv += ["--no-access-log", "--no-proxy-headers", "--ws", "none", "--loop", "uvloop", "--http", "httptools"]
    argv += ["--log-level", "warning", "--workers", str(site.workers)]
    return Launch(argv, {"DISTRIBUTER_BACKENDS": ",".join(site.backends), "DISTRIBUTER_REDIS": site.redis()})


OURS = (express, express_compiled, asgi, asgi_compiled)
