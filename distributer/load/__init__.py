"""A closed-loop load client: behind `distributer bench`, and under the benchmark of the sources."""
