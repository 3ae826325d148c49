"""Torch modules of snnTorch, SpikingJelly, Norse, sinabs, lava-dl and the OTTT authors become networks of ours."""
