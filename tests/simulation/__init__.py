"""A whole cluster in one process, on virtual time: what a seed chooses happens, and the same seed happens again.

The replicas are the real code, from the express door to the bytes that go to Redis and to the backends: doors, parsers,
exchanges, claims, pools, group commit, the hot link to Redis, the sweeper. What is simulated is around them:

    world.py           virtual time, and an event loop for each replica's process
    network.py         connections: latency, order, loss; what TCP keeps and what it does not
    redis_server.py    Redis: the commands and scripts that replicas send, on the transitions of `routing/`
    backend.py         backends: items, and all ways in which an answer can fail to come
    client.py          clients, which remember what they asked and what they were told
    replica.py         one replica, put together as `control/replica.py` does
    faults.py          what goes wrong, and when
    truth.py           what must hold, checked at each step, and at rest
    schedule.py        one seed: set up, run, heal, check
    determinism.py     time and chance, as the seed has them
    mutations.py       safeguards of the product, each of which can be taken away

`python -m tests.simulation --seed N --trace` tells the story of one seed. docs/simulation.md tells the rest.
"""
