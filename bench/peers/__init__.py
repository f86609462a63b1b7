"""The peers, one row each. To add one, write a function from Site to Launch, and a row."""

from __future__ import annotations

from bench.peers import doors, python_proxies, servers
from bench.peers.peer import Peer

PEERS = {
    peer.name: peer
    for peer in (
        Peer("direct", "no proxy: the load asks one backend: what the load side can do", None, scales=False),
        Peer("express", "distributer serve", doors.express, tickets_key=doors.TICKETS_KEY),
        Peer(
            "express-compiled",
            "the same, its hot path compiled by scripts/compile",
            doors.express_compiled,
            tickets_key=doors.TICKETS_KEY,
        ),
        Peer("asgi", "distributer.app under uvicorn", doors.asgi, tickets_key=doors.TICKETS_KEY),
        Peer(
            "asgi-compiled",
            "the same, its hot path compiled by scripts/compile",
            doors.asgi_compiled,
            tickets_key=doors.TICKETS_KEY,
        ),
        Peer("nginx", "nginx, round robin", servers.nginx),
        Peer("haproxy", "HAProxy, round robin, http-reuse always", servers.haproxy),
        Peer(
            "nginx-lua-redis",
            "nginx with Lua: a shared counter and a sticky hash in Redis",
            servers.nginx_lua_redis,
            tickets_key=doors.TICKETS_KEY,
        ),
        Peer("envoy", "Envoy, round robin", servers.envoy),
        Peer("aiohttp", "aiohttp reverse proxy, streaming, one shared session, uvloop", python_proxies.aiohttp_proxy),
        Peer(
            "httpx-shared",
            "FastAPI + httpx, one shared client, uvloop",
            python_proxies.httpx_shared,
            scales=False,
            is_slow=True,
        ),
        Peer(
            "httpx-naive",
            "FastAPI + httpx, a new client for each request",
            python_proxies.httpx_naive,
            scales=False,
            is_slow=True,
        ),
    )
}
