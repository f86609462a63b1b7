"""Run the demo's backends: `python scripts/run_servers.py`, from any directory. Ctrl-C stops them."""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it works without being installed

from backend.servers import POLL_INTERVAL_S, BackendServers, ServersError

READY_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
# Each is a Python process of some 50 MB: a slip of the keyboard should not take the machine down.
LARGEST_COUNT = 64
LARGEST_PORT = 65535


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, without the usage that argparse would put before it.
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address such as 127.0.0.1") from None


def _whole(text: str, smallest: int, largest: int) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 10 and smallest <= int(text) <= largest:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {smallest} to {largest}")


def _port(text: str) -> int:
    return _whole(text, 1, LARGEST_PORT)


def _count(text: str) -> int:
    return _whole(text, 1, LARGEST_COUNT)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return seconds


def _arguments() -> argparse.Namespace:
    parser = _Parser(description="Run the demo's backends. Ctrl-C stops them; twice, at once.", allow_abbrev=False)
    parser.add_argument("--host", type=_address, default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="port of the first; the others follow (%(default)s)")
    parser.add_argument("--count", type=_count, default=4, help="how many (%(default)s)")
    parser.add_argument("--latency", type=_seconds, default=0.0, help="seconds that each request waits (%(default)s)")
    arguments = parser.parse_args()
    if arguments.port + arguments.count - 1 > LARGEST_PORT:
        parser.error(f"argument --port: {arguments.count} ports from {arguments.port} on go beyond {LARGEST_PORT}")
    return arguments


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # Nobody reads any more, as after `| head`; the backends are wanted all the same.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _announce(servers: BackendServers, host: str, port: int) -> None:
    name = f"[{host}]" if ":" in host else host
    for its_port, pid in servers.pids.items():
        _say(f"backend on http://{name}:{its_port} (pid {pid})")
    url = f"http://{name}:{port}"
    item = '{"name": "pen", "price": 1.5}'
    _say(f"try: curl {url}/ping")
    _say(f"     curl '{url}/items/?item_id=7' -H 'Content-Type: application/json' -d '{item}'")
    _say(f"     curl {url}/items/7")
    _say("Ctrl-C stops them all")


def main() -> int:
    """Run the backends until a signal asks for the end, and return the exit status."""
    arguments = _arguments()
    ports = range(arguments.port, arguments.port + arguments.count)
    servers = BackendServers(arguments.host, ports, arguments.latency, _say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: servers.interrupt())
    try:
        servers.check_ports()
        servers.start()
        servers.wait_ready(READY_TIMEOUT_S)
        if not servers.interrupted:
            _announce(servers, arguments.host, arguments.port)
        while not servers.interrupted:
            servers.poll()
            time.sleep(POLL_INTERVAL_S)
        _say("stopping (Ctrl-C again: at once)")
    except ServersError as error:
        print(f"run_servers.py: {error}", file=sys.stderr)
        return 1
    finally:
        servers.stop(STOP_TIMEOUT_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
