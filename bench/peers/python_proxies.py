"""How the proxies that people write in Python are started: the programs stand beside this file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from bench.peers.peer import Launch, Site, Unavailable


def aiohttp_proxy(site: Site) -> Launch:
    _need("aiohttp")
    return _launch("aiohttp_proxy.py", site, "--workers", str(site.workers))


def httpx_shared(site: Site) -> Launch:
    _need("httpx")
    return _launch("naive_httpx.py", site, "--shared-client")


def httpx_naive(site: Site) -> Launch:
    _need("httpx")
    return _launch("naive_httpx.py", site)


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Unavailable(f"{package} is not installed")


def _launch(program: str, site: Site, *options: str) -> Launch:
    argv = [sys.executable, str(Path(__file__).with_name(program)), "--port", str(site.port), *options]
    for backend in site.backends:
        argv += ["--backend", backend]
    return Launch(argv)
