"""The control plane's process, on a socket that the supervisor lends."""

from __future__ import annotations

import sys

import uvicorn

from distributer.control.api import create_api
from distributer.process.child import ChildServer, take_order


def main() -> int:
    """Serve until told to stop; return the exit status."""
    order = take_order()
    config = uvicorn.Config(create_api(order.settings), ws="none", log_config=None, access_log=False)
    ChildServer(config, order.settings).run(sockets=[order.socket])
    return 0


if __name__ == "__main__":
    sys.exit(main())
