"""`python -m distributer`: the command line."""

from distributer.cli import main

main()
