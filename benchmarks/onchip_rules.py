"""The rules on the chip, phased and pipelined, from scratch on digits: accuracy with inference weights, and Lava steps.

``python benchmarks/onchip_rules.py`` prints the table of docs/onchip.md, "The rules from scratch": T = 12, three
epochs, rates halved after each, three seeds, in the simulator, whose integers are those of Lava. ``--width 256 --depths
2`` is 64-256-256-10; ``--depths 3 --seeds 15 --rules "OTTT, layer by layer" "S-TLLR, layer by layer"`` asks two of them
for more seeds.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.learner import accuracy
from ottt_loihi.sim.learning.weight_formats import to_inference

from ottt_loihi.data import load_data, rate_code

T, EPOCHS, RATES = 12, 3, {"readout_rate": 0.02, "hidden_rate": 1.0, "loss": "mse"}
RULES: dict[str, dict[str, Any]] = {
    "OTTT, layer by layer": {"rule": "ottt", "feedback": "kolen-pollack"},
    "OTTT, random": {"rule": "ottt", "feedback": "random"},
    "S-TLLR, layer by layer": {"rule": "s-tllr", "feedback": "kolen-pollack"},
    "S-TLLR, random": {"rule": "s-tllr", "feedback": "random"},
    "TESS": {"rule": "tess"},
    "TESS, α_post = 0": {"rule": "tess", "alpha_post": 0.0},
}
PIPELINED = ("OTTT, layer by layer", "OTTT, random", "TESS, α_post = 0")


def learnt(hidden: tuple[int, ...], seed: int, chosen: dict[str, Any]) -> tuple[float, int]:
    """Return the accuracy in %, and the Lava steps of a sample."""
    split = load_data("digits")

    def coded(images: np.ndarray, spikes: int) -> np.ndarray:
        return rate_code(images, T, spikes).reshape(-1, T, *split.input_shape)

    def training(number: int) -> tuple[np.ndarray, np.ndarray]:
        return coded(split.x_train, 1000 * (seed + 1) + number), split.y_train

    chip = fresh_network(split.input_shape, hidden, num_steps=T, seed=seed)
    settings = Settings.of_rule(seed=seed, halve_every=len(split.y_train), **RATES, **chosen)
    result = learn(chip, training, epochs=EPOCHS, settings=settings)
    test = coded(split.x_test, seed), split.y_test
    return 100 * accuracy(to_inference(result.chip).chip, *test), result.steps // result.samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=128, help="neurons of a hidden layer")
    parser.add_argument("--depths", type=int, nargs="+", default=(1, 2, 3), help="hidden layers")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES)
    options = parser.parse_args()
    print("| hidden layers | rule | schedule | accuracy, 8 bits | Lava steps per sample |\n|---:|---|---|---:|---:|")
    for depth in options.depths:
        for name in options.rules:
            for schedule in ("phased", "pipelined") if name in PIPELINED else ("phased",):
                chosen, hidden = {**RULES[name], "schedule": schedule}, (options.width,) * depth
                found = [learnt(hidden, seed, chosen) for seed in range(options.seeds)]
                accuracies = [accuracy for accuracy, _ in found]
                mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
                print(f"| {depth} | {name} | {schedule} | {mean:.1f} ± {spread:.1f} % | {found[0][1]} |", flush=True)


if __name__ == "__main__":
    main()
