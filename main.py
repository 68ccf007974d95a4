"""The paper's command line: python main.py --methods AGM --dataset AV-MNIST ..., see gradmod.experiments.cli.paper."""

import sys

from gradmod.experiments.cli.guard import guarded
from gradmod.experiments.cli.paper import in_flags, run

if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:]), in_flags))
