"""The rules on the chip, phased and pipelined, from scratch on digits: accuracy with inference weights, and Lava steps.

``python benchmarks/onchip_rules.py`` prints the table of docs/onchip.md, "The rules from scratch": T = 12, three
epochs, rates halved after each, three seeds, in the simulator, whose integers are those of Lava.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.learner import accuracy
from ottt_loihi.sim.learning.weight_formats import to_inference

from ottt_loihi.data import load_data, rate_code

T, EPOCHS, SEEDS, RATES = 12, 3, (0, 1, 2), {"readout_rate": 0.02, "hidden_rate": 1.0}
DEPTHS = (1, 2, 3)  # hidden layers of 128 neurons
RULES: dict[str, dict[str, Any]] = {
    "OTTT, layer by layer": {"rule": "ottt", "feedback": "kolen-pollack"},
    "OTTT, random": {"rule": "ottt", "feedback": "random"},
    "S-TLLR, layer by layer": {"rule": "s-tllr", "feedback": "kolen-pollack"},
    "S-TLLR, random": {"rule": "s-tllr", "feedback": "random"},
    "TESS": {"rule": "tess"},
    "TESS, α_post = 0": {"rule": "tess", "alpha_post": 0.0},
}
PIPELINED = ("OTTT, layer by layer", "OTTT, random", "TESS, α_post = 0")


def learnt(depth: int, seed: int, chosen: dict[str, Any]) -> tuple[float, int]:
    """Return the accuracy in %, and the Lava steps of a sample."""
    split = load_data("digits")

    def coded(images: np.ndarray, spikes: int) -> np.ndarray:
        return rate_code(images, T, spikes).reshape(-1, T, *split.input_shape)

    def training(number: int) -> tuple[np.ndarray, np.ndarray]:
        return coded(split.x_train, 1000 * (seed + 1) + number), split.y_train

    chip = fresh_network(split.input_shape, (128,) * depth, num_steps=T, seed=seed)
    settings = Settings.of_rule(seed=seed, halve_every=len(split.y_train), **RATES, **chosen)
    result = learn(chip, training, epochs=EPOCHS, settings=settings)
    test = coded(split.x_test, seed), split.y_test
    return 100 * accuracy(to_inference(result.chip).chip, *test), result.steps // result.samples


def main() -> None:
    print("| hidden layers | rule | schedule | accuracy, 8 bits | Lava steps per sample |\n|---:|---|---|---:|---:|")
    for depth in DEPTHS:
        for name, rule in RULES.items():
            for schedule in ("phased", "pipelined") if name in PIPELINED else ("phased",):
                found = [learnt(depth, seed, {**rule, "schedule": schedule}) for seed in SEEDS]
                accuracies = [accuracy for accuracy, _ in found]
                mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
                print(f"| {depth} | {name} | {schedule} | {mean:.1f} ± {spread:.1f} % | {found[0][1]} |", flush=True)


if __name__ == "__main__":
    main()
