"""The cluster as real processes under staged faults, and the proof that it kept its promises: `make chaos`.

schedule ──► stage (processes, links) ◄── workload (clients)
                      │                        │
                      └──────► history ◄───────┘
                                  │
                   register ◄── checker ──► report
"""
