"""The commands. Nothing here imports torch or Lava before a command really runs, so that ``--help`` answers at once."""
