"""One backend on a leash: `python -m backend.leash HOST PORT` serves for as long as standard input stays open.

Standard input is a pipe whose other end only the parent holds. However the parent ends, by `kill -9` as well, the
kernel closes that end and the backend sees the end of the file. Linux's PR_SET_PDEATHSIG does less: it is bound to
the thread that forked, and macOS has nothing like it.
"""

from __future__ import annotations

import os
import sys
import threading

import uvicorn

_STDIN = 0


def _end_with_parent() -> None:
    # os.read, not sys.stdin: a daemon thread inside a buffered reader would hold its lock when the interpreter ends.
    while os.read(_STDIN, 64):
        pass
    os._exit(1)  # nobody is left to wait for an orderly end


def main() -> None:
    """Serve the application on the host and port given, without the access log."""
    host, port = sys.argv[1], int(sys.argv[2])
    threading.Thread(target=_end_with_parent, name="leash", daemon=True).start()
    # workers=1 in so many words: $WEB_CONCURRENCY would otherwise split the items over several memories.
    uvicorn.run("backend.app:app", host=host, port=port, workers=1, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
