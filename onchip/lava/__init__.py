"""The learning network as Lava processes: graph, rule, executors."""
