"""The command line of `gradmod prepare`: data sets made from their sources, or decoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gradmod.experiments.errors import ConfigError, did_you_mean
from gradmod.experiments.reporting.progress import counting
from gradmod.experiments.settings.arguments import parse

USAGE = """\
usage: gradmod prepare DATASET ...

  av-mnist   the data set itself, from MNIST, the Free Spoken Digit Dataset and a folder of noises
  crema-d    sounds and frames (or the original videos), decoded once into memory-mapped arrays
  ur-funny   the published pickle as memory-mapped arrays
  mosei      the published pickles as memory-mapped arrays

What is made is a folder that --root takes. gradmod prepare DATASET --help shows the flags.
"""


def run(words: Sequence[str]) -> None:
    """Run `gradmod prepare WORDS`.

    Raises:
        GradmodError: what was wrong.
    """
    if words and words[0] in ("-h", "--help"):
        print(
            USAGE + "\nexamples:\n" + "".join(f"  {example}\n" for example in EXAMPLES.values()),
            end="",
        )
        return
    command = command_of(words)
    if command is None:
        name = words[0] if words else ""
        raise ConfigError(
            f"gradmod prepare makes {', '.join(COMMANDS)}; found {name!r}{did_you_mean(name, COMMANDS)} (see gradmod "
            "prepare --help)"
        )
    name = command.__name__.replace("_", "-")
    parse(
        command, words[1:], f"gradmod prepare {name}", more_help=f"\nexample:\n  {EXAMPLES[name]}\n"
    )


def command_of(words: Sequence[str]) -> Callable[..., None] | None:
    """What prepares the data set that the words begin with; None: there is none of that name."""
    name = words[0] if words else ""
    return next(
        (make for known, make in COMMANDS.items() if name in (known, known.replace("-", ""))), None
    )


def av_mnist(
    mnist: Path,
    speech: Path,
    noise: Path,
    out: Path,
    train: int = 60_000,
    test: int = 10_000,
    energy: float = 0.25,
    snr_db: tuple[float, float] = (-16.0, -5.0),
    disjoint: str = "recordings",
    seed: int = 0,
    images: str = "centred",
) -> None:
    """Make AV-MNIST in its original layout; the same sources and settings give the same bytes.

    Args:
        mnist: Folder of MNIST's four IDX files, gzipped or not, or the folder that torchvision downloads it to.
        speech: Folder of the Free Spoken Digit Dataset's recordings.
        noise: Folder of wav, ogg or flac files.
        out: Folder to make.
        train: Training samples, at most 60,000.
        test: Test samples, at most 10,000.
        energy: Share of the images' variance that is kept.
        snr_db: Range of the ratio of speech to noise.
        disjoint: recordings or speakers: what train and test do not share.
        seed: Of every draw.
        images: centred: float64 without the mean image, as published; uint8: with it, an eighth of the size.
    """
    from gradmod.experiments.datasets.preparation.av_mnist import Recipe, prepare

    recipe = Recipe(train, test, energy, snr_db, disjoint, seed, images)
    with counting("samples") as progress:
        manifest = prepare(mnist, speech, noise, out, recipe, progress)
    print(f"{out}: {train} train and {test} test samples, {manifest['components']} components kept")


def crema_d(
    root: Path,
    out: Path,
    audio: Path | None = None,
    videos: Path | None = None,
    shorter_side: int = 0,
) -> None:
    """Decode CREMA-D once; what is read is the same, several times faster.

    Args:
        root: Folder with CREMAD/train.csv and test.csv.
        out: Folder to make; a --root of its own.
        audio: Folder of the wav files; none: Audio in the root.
        videos: Folder of the original videos, of which the frame of every full second is taken; none: Image-01-FPS in
            the root.
        shorter_side: Pixels that larger frames are shrunk to, which saves disk; 0: they stay as they are.
    """
    from gradmod.experiments.datasets.preparation.crema_d import prepare

    with counting("clips") as progress:
        manifest = prepare(
            root, out, audio=audio, videos=videos, shorter_side=shorter_side, progress=progress
        )
    left_out: list[str] = manifest["left_out"]
    print(
        f"{out}: {len(left_out)} clips left out, which lack their sound or frames {' '.join(left_out[:5])}".rstrip()
    )


def ur_funny(root: Path, out: Path) -> None:
    """Convert UR-Funny's pickle; what is read is the same, without holding it in memory.

    Args:
        root: The pickle.
        out: Folder to make; a --root of its own.
    """
    from gradmod.experiments.datasets.preparation.ur_funny import prepare

    manifest = prepare(root, out)
    print(f"{out}: {manifest['sizes']} samples of train, valid, test")


def mosei(root: Path, out: Path, embeddings: str = "") -> None:
    """Convert CMU-MOSEI's pickles; what is read is the same, without holding it in memory.

    Args:
        root: Folder of the pickles.
        out: Folder to make; a --root of its own.
        embeddings: Text file of GloVe vectors, of which those that are needed are kept.
    """
    from gradmod.experiments.datasets.preparation.mosei import prepare

    manifest = prepare(root, out, embeddings=embeddings)
    kept = " ".join((*manifest["modalities"], *manifest["labels"]))
    print(f"{out}: {manifest['sizes']} clips of train, valid, test; {kept}")


COMMANDS: dict[str, Callable[..., None]] = {
    "av-mnist": av_mnist,
    "crema-d": crema_d,
    "ur-funny": ur_funny,
    "mosei": mosei,
}
EXAMPLES = {
    "av-mnist": "gradmod prepare av-mnist --mnist MNIST --speech FSDD/recordings --noise NOISES --out FOLDER",
    "crema-d": "gradmod prepare crema-d --root FOLDER --out FAST --shorter-side 256",
    "ur-funny": "gradmod prepare ur-funny --root FILE.pkl --out FAST",
    "mosei": "gradmod prepare mosei --root FOLDER --out FAST --embeddings glove.840B.300d.txt",
}
