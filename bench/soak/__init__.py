"""Hours in minutes: does a worker stay the size it is, whatever clients do? Run as `python -m bench.soak`."""
