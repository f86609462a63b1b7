"""The demo application: four of these, each with items of its own, are what the cluster distributes to."""
