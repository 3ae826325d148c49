"""From a trained float network to the integers of a ChipNetwork."""
