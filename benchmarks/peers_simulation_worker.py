"""The integer network of ``benchmarks/peers.py`` in another simulator of Loihi: nengo-loihi's emulator, or Brian2Loihi.

    peers_simulation_worker.py nengo-loihi|brian2-loihi network.npz states.npz [--short]

The file has the weights ``(post, pre)`` of each layer, its du, dv and vth, and one sample of spikes ``(T, inputs)``.
Written are the spikes and membranes of each layer, ``(T, neurons)``, and the processor's seconds of a step in each of
three runs.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np

REPEATS = 3
MOST = 2**23 - 1  # the largest magnitude of a membrane


def nengo_loihi(file: Any) -> tuple[list[np.ndarray], list[np.ndarray], list[float]]:
    """The emulator under NengoLoihi, built from its blocks with integers where its own builder would round to them."""
    from nengo_loihi.block import Axon, LoihiBlock, Synapse
    from nengo_loihi.builder import Model
    from nengo_loihi.emulator import EmulatorInterface
    from nengo_loihi.inputs import SpikeInput

    spikes = file["x"]
    steps, layers = len(spikes), int(file["layers"])

    def build() -> tuple[Any, list[Any]]:
        model = Model()
        source: Any = SpikeInput(spikes.shape[1])
        for t, frame in enumerate(spikes, 1):
            source.add_spikes(t, np.flatnonzero(frame), permanent=True)
        model.add_input(source)
        blocks = []
        for index in range(layers):
            weight = file[f"weight{index}"]
            block = LoihiBlock(len(weight), label=f"layer {index}")
            neurons = block.compartment
            neurons.decay_u = np.full(len(weight), file["du"][index], np.int32)
            neurons.decay_v = np.full(len(weight), file["dv"][index], np.int32)
            neurons.vth = np.full(len(weight), file["vth"][index] << 6, np.int32)
            neurons.bias = np.zeros(len(weight), np.int32)
            neurons.refract_delay = np.ones(len(weight), np.int32)  # 1: none
            neurons.scale_u, neurons.vmin, neurons.vmax = False, -MOST, MOST
            synapse = Synapse(weight.shape[1])
            rows = [np.ascontiguousarray(column[None] << 6, np.int32) for column in weight.T]
            synapse._set_weights_indices(rows, weight_dtype=np.int32)
            block.add_synapse(synapse)
            axon = Axon(weight.shape[1])
            axon.target = synapse
            axon.set_compartment_axon_map(np.arange(weight.shape[1]))
            source.add_axon(axon)
            model.add_block(block)
            blocks.append(block)
            source = block
        return EmulatorInterface(model, seed=0), blocks

    seconds = []
    total = steps + layers
    for repeat in range(REPEATS + 1):
        emulator, blocks = build()
        places = [emulator.block_info.slices[block] for block in blocks]
        s, v = np.zeros((total, emulator.block_info.n_compartments), bool), []
        started = time.process_time()
        for t in range(total):
            emulator.step()
            if repeat == 0:
                s[t] = emulator.compartment.spiked
                v.append(emulator.compartment.voltage.copy())
        if repeat:
            seconds.append((time.process_time() - started) / total)
        else:
            kept = s, np.stack(v)
    # an input takes a step to arrive, and so does a spike from one layer to the next
    fired = [kept[0][1 + index : 1 + index + steps, place] for index, place in enumerate(places)]
    return fired, [kept[1][1 + index : 1 + index + steps, place] for index, place in enumerate(places)], seconds


def brian2_loihi(file: Any) -> tuple[list[np.ndarray], list[np.ndarray], list[float]]:
    """Brian2Loihi, with its own classes; Brian compiles with the C compiler where it finds one, not in the short form.

    The first compilation takes a minute. Brian prepares every run anew; this is not in the seconds.
    """
    from brian2 import NetworkOperation, prefs
    from brian2_loihi import (
        LoihiNetwork,
        LoihiNeuronGroup,
        LoihiSpikeGeneratorGroup,
        LoihiSpikeMonitor,
        LoihiStateMonitor,
        LoihiSynapses,
        synapse_sign_mode,
    )

    prefs.codegen.target = "numpy" if "--short" in sys.argv else "auto"
    spikes = file["x"]
    steps, layers = len(spikes), int(file["layers"])
    times, indices = np.nonzero(spikes)

    def build() -> tuple[list[Any], list[Any]]:  # Brian refuses an object that another network has simulated
        source: Any = LoihiSpikeGeneratorGroup(spikes.shape[1], indices, times)
        parts: list[Any] = [source]
        groups = []
        for index in range(layers):
            weight = file[f"weight{index}"]
            decay_u, decay_v = int(file["du"][index]) + 1, int(file["dv"][index])  # its decay of u has no offset of one
            group = LoihiNeuronGroup(
                len(weight), refractory=1, threshold_v_mant=int(file["vth"][index]), decay_v=decay_v, decay_I=decay_u
            )
            synapses = LoihiSynapses(source, group, sign_mode=synapse_sign_mode.MIXED)
            synapses.connect()
            synapses.w = weight.T.reshape(-1).astype(int)  # Brian's order: the targets of the first source first
            parts += [group, synapses]
            groups.append(group)
            source = group
        return parts, groups

    began: list[float] = []  # when each step began
    clock = NetworkOperation(lambda: began.append(time.process_time()))
    network = LoihiNetwork(*build()[0], clock)
    network.store()
    total = steps + layers
    seconds = []
    for _ in range(REPEATS):
        network.restore()
        began.clear()
        network.run(total)
        seconds.append((began[-1] - began[0]) / (total - 1))
    parts, groups = build()
    monitors = [(LoihiSpikeMonitor(group), LoihiStateMonitor(group, "v")) for group in groups]
    watched = LoihiNetwork(*parts, *(monitor for pair in monitors for monitor in pair))
    watched.run(total)
    fired, membranes = [], []
    for index, (group, (events, states)) in enumerate(zip(groups, monitors)):
        s = np.zeros((total, len(group)), bool)
        s[np.rint(1000 * np.asarray(events.t_)).astype(int), np.asarray(events.i)] = True
        fired.append(s[index : index + steps])  # a spike takes a step from one layer to the next, an input none
        membranes.append(np.asarray(states.v).T[index : index + steps])
    return fired, membranes, seconds


def main() -> None:
    name, path, target = sys.argv[1:4]
    with np.load(path) as file:
        fired, membranes, seconds = {"nengo-loihi": nengo_loihi, "brian2-loihi": brian2_loihi}[name](file)
    states = {f"s{i}": s for i, s in enumerate(fired)} | {f"v{i}": v for i, v in enumerate(membranes)}
    np.savez(target, seconds=seconds, **states)
    print(json.dumps({name: version(name), "numpy": np.__version__}))


if __name__ == "__main__":
    main()
