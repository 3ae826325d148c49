"""The learning network: the layers that learn, their rates, scales and schedule."""
