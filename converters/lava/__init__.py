"""A ChipNetwork as stock Lava processes: graph, guarded runtime, script."""
