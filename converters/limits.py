"""The chip's limits as named constants, each with its source; sizes in bits unless the name says otherwise.

Loihi 1's numbers are from nengo-loihi's published model of the chip (``validate.py``, ``builder/``). Intel has not
published Loihi 2's axon and synapse memory layout; the budget therefore counts with Loihi 1's cores and says so.
"""

CORES_PER_CHIP = 128  # Loihi 1 and 2, public overviews
COMPARTMENTS_PER_CORE = 1024  # Loihi 1, nengo-loihi
IN_AXONS_PER_CORE = 4096  # Loihi 1, nengo-loihi
OUT_AXONS_PER_CORE = 4096  # Loihi 1, nengo-loihi
SYNAPSE_BITS_PER_CORE = 1_048_576  # Loihi 1, nengo-loihi
SYNAPSES_PER_ENTRY = 64  # Loihi 1, nengo-loihi: one header for up to so many synapses of an axon
ENTRY_HEADER_BITS = 10  # Loihi 1, nengo-loihi
ENTRY_WORD_BITS = 64  # Loihi 1, nengo-loihi: an entry is rounded up to whole words
DELAY_BITS = 6  # Lava's dense models: delays of 0 to 63 steps
