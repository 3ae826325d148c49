"""lava-dl's .net files: write, read, run."""
