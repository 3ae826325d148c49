"""The parts of a network: neurons, surrogates, connections, blocks, models."""
