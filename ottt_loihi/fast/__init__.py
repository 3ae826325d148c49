"""Speed only: compiled kernels, chunks of time steps, recorded GPU graphs; the library is correct without it."""
