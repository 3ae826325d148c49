"""How long each command takes to answer --help: medians of 5, in seconds. Run: make bench."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

table = Table("command", "median, s", "fastest, s", title="--help")
for command in ("ottt-train", "ottt-export", "ottt-run", "ottt-learn", "ottt-data"):
    times = []
    for _ in range(5):
        started = time.perf_counter()
        program = str(Path(sys.executable).with_name(command))
        subprocess.run([program, "--help"], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    table.add_row(command, f"{statistics.median(times):.2f}", f"{min(times):.2f}")
Console().print(table)
