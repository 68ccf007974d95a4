"""The paper's command line: python main.py --methods AGM --dataset AV-MNIST ..., see gradmod.paper_cli."""

import sys

from gradmod.cli import guarded
from gradmod.paper_cli import in_flags, run

if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:]), in_flags))
