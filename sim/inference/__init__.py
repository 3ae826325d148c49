"""Run a ChipNetwork: the reference simulator and the fast one."""
