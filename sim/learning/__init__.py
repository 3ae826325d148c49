"""Learn on the chip: the reference learner and the fast one, and the integers both share."""
