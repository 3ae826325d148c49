"""Run a training: trainer, evaluation, checkpoints, run folders, configuration, comparison."""
