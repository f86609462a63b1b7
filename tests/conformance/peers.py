"""nginx and HAProxy held against the same tables, and the page that says so.

    python -m tests.conformance.peers                                 # print the page
    python -m tests.conformance.peers --write docs/conformance.md

A peer that is not installed is skipped by name. Each has a plain configuration, in which it keeps connections to the
origin alive, as distributer does, and passes the client's Host on.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.conformance.cases import CASES
from tests.conformance.doors import outcomes_of
from tests.conformance.lane import Lane, Origin, Outcome, run
from tests.conformance.report import Column, page
from tests.support.ports import free_port_row
from tests.support.processes import accepts
from tests.support.waiting import wait_until_async

LANES = 16
SETTLE_S = 0.05
PATIENCE_S = 1.5

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    map $http_host $asked_host {{ "" $host; default $http_host; }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""
NGINX_SERVER = """
    upstream origin{number} {{ server 127.0.0.1:{origin}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        server_name proxy.test;
        location / {{
            proxy_pass http://origin{number};
            proxy_http_version 1.1;
            proxy_set_header Host $asked_host;
            proxy_set_header Connection "";
        }}
    }}
"""
HAPROXY = """
global
    maxconn 4096
defaults
    mode http
    http-reuse safe
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout http-request 30s
{servers}
"""
HAPROXY_SERVER = """
frontend client{number}
    bind 127.0.0.1:{port}
    default_backend origin{number}
backend origin{number}
    server origin 127.0.0.1:{origin}
"""


def nginx_command(folder: Path, pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Write a configuration with a server for each port and origin."""
    servers = "".join(
        NGINX_SERVER.format(number=number, port=port, origin=origin) for number, (port, origin) in enumerate(pairs)
    )
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, user=user, servers=servers))
    return ["nginx", "-p", str(folder), "-c", str(config)]


def haproxy_command(folder: Path, pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Write a configuration with a frontend and a backend for each port and origin."""
    servers = "".join(
        HAPROXY_SERVER.format(number=number, port=port, origin=origin) for number, (port, origin) in enumerate(pairs)
    )
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(servers=servers))
    return ["haproxy", "-db", "-q", "-f", str(config)]


PEERS: dict[str, Callable[[Path, Sequence[tuple[int, int]]], list[str]]] = {
    "nginx": nginx_command,
    "HAProxy": haproxy_command,
}


@asynccontextmanager
async def lanes_of(peer: str, count: int = LANES) -> AsyncIterator[Sequence[Lane]]:
    """Run a peer in front of as many origins."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peer-")))
        origins = [await stack.enter_async_context(Origin().running()) for _ in range(count)]
        ports = free_port_row(count)
        command = PEERS[peer](folder, [(port, origin.port) for port, origin in zip(ports, origins, strict=True)])
        with (folder / "output").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

        async def stop() -> None:
            process.terminate()
            await process.wait()

        stack.push_async_callback(stop)

        async def is_up() -> bool:
            assert process.returncode is None, (folder / "output").read_text()
            return all(accepts(port) for port in ports)

        await wait_until_async(is_up, f"{peer} accepts connections")
        yield [Lane(port, origin, SETTLE_S) for port, origin in zip(ports, origins, strict=True)]


async def run_peer(peer: str) -> dict[str, Outcome]:
    """Run all cases over a peer."""
    async with lanes_of(peer) as lanes:
        return await run(lanes, CASES, {case.name for case in CASES}, PATIENCE_S)


def version_of(peer: str) -> str:
    """Ask a peer which version it is."""
    printed = subprocess.run([peer.lower(), "-v"], capture_output=True, text=True, check=True)
    found = re.search(r"[0-9]+\.[0-9]+\.[0-9]+", printed.stdout + printed.stderr)
    return found[0] if found else "of unknown version"


def main(arguments: Sequence[str]) -> None:
    """Print the page, or write it."""
    columns = [Column("express", "", outcomes_of("express")), Column("asgi", "", outcomes_of("asgi"))]
    for peer in PEERS:
        if shutil.which(peer.lower()) is None:
            print(f"{peer} is not installed: skipped", file=sys.stderr)
        else:
            columns.append(Column(peer, version_of(peer), asyncio.run(run_peer(peer))))
    text = page(columns)
    if arguments[:1] == ["--write"]:
        Path(arguments[1]).write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
