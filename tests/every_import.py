"""What a command imports while it runs, for the process that others are forked from."""

import matplotlib.backends.backend_svg
import matplotlib.figure  # noqa: F401
import sklearn.datasets  # noqa: F401
import tensorboard.summary  # noqa: F401
import torch._dynamo  # noqa: F401
import tyro  # noqa: F401

from gradmod.experiments.training.devices import _import_fabric

_import_fabric()
