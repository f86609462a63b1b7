"""The program's entry, `distributer` and `python -m distributer`: holds SIGHUP, then runs the command line.

A SIGHUP to `serve` asks for a rolling restart, also while it is still being imported, which takes 0.3 s: unless it is
held it would end the process then. `process/serve.py` lets it through when it knows what to do with it.
"""

import signal
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from distributer.cli import main as run

    run()


if __name__ == "__main__":
    main()
