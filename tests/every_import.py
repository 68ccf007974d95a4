"""What a command imports and makes while it runs, for the process that others are forked from."""

# ruff: noqa: F401

import matplotlib.backends.backend_svg
import matplotlib.figure
import PIL.JpegImagePlugin
import sklearn.datasets
import soundfile
import tensorboard.summary
import tomli_w
import torch._dynamo
import torch.utils.tensorboard
import typeguard
import tyro

import gradmod.experiments.cli.compare
import gradmod.experiments.cli.main
import gradmod.experiments.cli.prepare
import gradmod.experiments.reporting.plots.curves
import gradmod.experiments.reporting.tables
import gradmod.experiments.settings.arguments
import gradmod.experiments.settings.warnings
from gradmod.experiments.datasets import av_digits
from gradmod.experiments.training.devices import _import_fabric

_import_fabric()
av_digits.load("", "heldout", 0)  # made once, and kept
