"""What `import gradmod` costs on top of `import torch`: fresh processes, taking turns.

python benchmarks/import_time.py --rounds 9
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

PROGRAMS = {
    "import torch": "import torch",
    "and gradmod": "import torch, gradmod; gradmod.AGM; gradmod.ModulatedModel; gradmod.adapt",
    "and all that is public": "import torch, gradmod; [getattr(gradmod, name) for name in gradmod.__all__]",
}
TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(parser.parse_args().rounds):
        for name, program in PROGRAMS.items():
            command = [sys.executable, "-c", TIMED.format(program)]
            seconds[name].append(
                float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            )
    base = statistics.median(seconds["import torch"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:<24} {median:.3f} s ({min(values):.3f} to {max(values):.3f}), {median - base:+.3f} s"
        )


if __name__ == "__main__":
    main()
