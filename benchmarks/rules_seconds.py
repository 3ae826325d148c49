"""Seconds of the processor that each rule of the comparisons of docs/rules.md trains for, per epoch of 256 samples.

``python benchmarks/rules_seconds.py configs/compare/rules-fsdd.toml …`` trains each rule's network for four epochs and
prints the median over all but the first. Time of the processor, one thread: what else runs on the machine counts
little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise

import torch

from ottt_loihi.training.callbacks import Callback, Fit
from ottt_loihi.training.compare import Contender, read_comparison
from ottt_loihi.training.run import begin
from ottt_loihi.training.trainer import Trainer

SAMPLES, EPOCHS = 256, 4


class Clock(Callback):
    """The processor's time at the end of each epoch."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_epoch_end(self, fit: Fit) -> None:
        self.times.append(time.process_time())


def seconds(contender: Contender) -> list[float]:
    """Return the seconds of each epoch but the first, which compiles."""
    config, data, net = begin(contender.config)
    clock = Clock()
    trainer = Trainer(
        net,
        config.make_rule(net.convention),
        encoding=data.record.coding,
        callbacks=[clock],
        **config.trainer_settings(),
    )
    trainer.fit(data.split.first(SAMPLES, 1), epochs=EPOCHS)
    return [after - before for before, after in pairwise(clock.times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", help="files of ottt-compare")
    torch.set_num_threads(1)
    for path in parser.parse_args().configs:
        print(path)
        for contender in read_comparison(path).contenders:
            times = seconds(contender)
            print(
                f"{contender.label:22} {statistics.median(times):6.2f} s ({min(times):.2f} to {max(times):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
