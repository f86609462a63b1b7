"""What the garbage collector is spared."""

from __future__ import annotations

import gc


def spare_the_collector() -> None:
    """Take what lives now for what lives as long as the process, and collect seldom.

    A request makes no reference cycles, and all that it makes is gone when it is answered: so collections find next to
    nothing, and would look at the whole application each time. For a process of our own, once it has started.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
