"""NIR files: write, read, import foreign graphs."""
