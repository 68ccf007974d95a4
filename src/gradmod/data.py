"""What a data set of one's own is made of, in a file that `--dataset FILE.py:FUNCTION` names.

A door into the application, where these stand: a network and a training loop of one's own need none of them.
"""

from gradmod.experiments.datasets.split import ArraySource, Source, Split
from gradmod.experiments.datasets.splits import Splits, heldout

__all__ = ["ArraySource", "Source", "Split", "Splits", "heldout"]
