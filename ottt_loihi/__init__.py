"""Train spiking networks online with OTTT, put them on Loihi through Lava, and let them go on learning there."""

__version__ = "0.1.0"
