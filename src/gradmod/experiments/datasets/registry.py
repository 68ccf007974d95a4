"""The data sets by name, as import strings: naming them imports neither torch nor NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradmod.experiments.errors import ConfigError, did_you_mean

HELDOUT, PUBLISHED = "heldout", "published"
LEFT_OUT_OF_OWN = (
    "take its row out of the rows of its split, where your function makes it: whole.subset(rows)"
)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    Attributes:
        name: on the command line.
        title: in the literature.
        modalities: names of its inputs; none where only its files tell.
        classes: number of classes; 0 where only its files tell.
        summary: one line.
        layout: the files that the loader looks for, as a tree; empty where there are none.
        how_to_get: where it comes from.
        loader: "module:function".
        protocols: splits that it has.
        decodes: whether reading a sample is work, so that processes that read ahead help.
        encoder: the encoder that `auto` stands for.
        card: its data card in the documentation.
        options: settings of [data] that its loader takes.
        initialisation: "module:function" that gives its network the published starting values; None: the layers' own.
        files: patterns below the root, each with at least one file; "." is the root itself.
        leaving_out: what to do to leave a sample out.
        mixes: kinds of groups that are in several splits as the data set is published, to what to say of it.
        network: "module:Class" where there is one network, whatever encoder and fusion; None: encoders and a fusion.
    """

    name: str
    title: str
    modalities: tuple[str, ...]
    classes: int
    summary: str
    layout: str
    how_to_get: str
    loader: str
    protocols: tuple[str, ...] = (HELDOUT, PUBLISHED)
    decodes: bool = False
    encoder: str = "small-cnn"
    card: str = ""
    options: tuple[str, ...] = ()
    initialisation: str | None = None
    network: str | None = None
    files: tuple[str, ...] = ()
    leaving_out: str = ""
    mixes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether it is one of the user's own, named as folder/file.py:function."""
        return ":" in self.name

    def where_it_looked(self, root: str) -> str:
        """What to say where `root` is not the folder of this data set: the layout, and how to get it."""
        found = f"{root} does not hold it" if root else "data.root is empty"
        layout = "; ".join(" ".join(line.split()) for line in self.layout.splitlines())
        return (
            f"{self.title}: {found}. Looked for {layout}. How to get it: {self.how_to_get}. Without any download: "
            "--dataset av-digits, the embedded data set"
        )


DATASETS = {
    info.name: info
    for info in (
        DatasetInfo(
            "av-digits",
            "AV-Digits",
            ("audio", "visual"),
            10,
            "embedded: handwritten digits and the keypad tone of the same digit, in noise",
            "",
            "nothing to get: made from the digits that scikit-learn ships",
            "gradmod.experiments.datasets.av_digits:load",
            (HELDOUT,),
            encoder="mlp",
            card="docs/datasets/av-digits.md",
        ),
        DatasetInfo(
            "av-mnist",
            "AV-MNIST",
            ("audio", "visual"),
            10,
            "reduced MNIST images and spoken digits in noise, as spectrograms",
            "<root>/image/train_data.npy    [N, 784], published ones centred (float64), or 0..255\n"
            "<root>/image/test_data.npy     [N, 784]\n"
            "<root>/audio/train_data.npy    [N, 112, 112], 0..255\n"
            "<root>/audio/test_data.npy     [N, 112, 112]\n"
            "<root>/train_labels.npy        [N], integers 0..9\n"
            "<root>/test_labels.npy         [N]",
            "see docs/datasets/av-mnist.md",
            "gradmod.experiments.datasets.av_mnist:load",
            files=(
                "image/train_data.npy",
                "image/test_data.npy",
                "audio/train_data.npy",
                "audio/test_data.npy",
                "train_labels.npy",
                "test_labels.npy",
            ),
            leaving_out="strike its row from the image, the audio and the labels' file of its split",
            encoder="resnet18",
            card="docs/datasets/av-mnist.md",
        ),
        DatasetInfo(
            "crema-d",
            "CREMA-D",
            ("audio", "visual"),
            6,
            "acted emotions: short clips of a sentence and a face",
            "<root>/CREMAD/train.csv, test.csv           clip name, class code (NEU HAP SAD FEA DIS ANG)\n"
            "<root>/Audio/<clip>.wav\n"
            "<root>/Image-01-FPS/<clip>/*.jpg            frames, one a second",
            "see docs/datasets/crema-d.md",
            "gradmod.experiments.datasets.crema_d:load",
            files=("CREMAD/train.csv", "CREMAD/test.csv", "Audio/*.wav", "Image-01-FPS/*/*"),
            encoder="resnet18",
            decodes=True,
            card="docs/datasets/crema-d.md",
            options=("frames", "speakers"),
            leaving_out="remove its sound or frame, or strike its line from the csv file: a clip without sound or "
            "without any frame is left out, and counted in a note; of several frames the others stay. A prepared "
            "folder is made anew",
            mixes={"speaker": "so its csv files are; --speakers disjoint divides it anew"},
            initialisation="gradmod.models.initialisation:start_as_crema_d",
        ),
        DatasetInfo(
            "ur-funny",
            "UR-Funny",
            ("visual", "audio", "text"),
            2,
            "humour in talks: features of face, voice and words",
            "<root>      one pickle: {train, valid, test} -> {vision [N, T, 371], audio [N, T, 81], text [N, T, 300], "
            "labels [N, 1]}",
            "see docs/datasets/ur-funny.md",
            "gradmod.experiments.datasets.ur_funny:load",
            files=(".",),
            encoder="transformer",
            card="docs/datasets/ur-funny.md",
            options=("aligned",),
            leaving_out="strike its row from vision, audio, text and labels of its part of the pickle; entries whose "
            "text is all zero are left out anyway",
        ),
        DatasetInfo(
            "ave",
            "AVE",
            ("audio", "visual"),
            29,
            "events that are seen and heard, a class for every second",
            "<root>/audio_feature.h5     avadataset [N, 10, 128]\n"
            "<root>/visual_feature.h5    avadataset [N, 10, 7, 7, 512]\n"
            "<root>/right_labels.h5      avadataset [N, 10, 29]; or right_label.h5, labels.h5\n"
            "<root>/train_order.h5, val_order.h5, test_order.h5    order [n]",
            "see docs/datasets/ave.md",
            "gradmod.experiments.datasets.ave:load",
            files=(
                "audio_feature.h5",
                "visual_feature.h5",
                "*label*.h5",
                "train_order.h5",
                "val_order.h5",
                "test_order.h5",
            ),
            leaving_out="strike its number from train_order.h5, val_order.h5 or test_order.h5",
            network="gradmod.models.psp:PositiveSamplePropagation",
            card="docs/datasets/ave.md",
        ),
        DatasetInfo(
            "mosei",
            "CMU-MOSEI",
            ("text", "audio"),
            2,
            "sentiment and emotion of sentences in videos",
            "<root>/{train,valid,test}_sentences.p     clip -> list of words\n"
            "<root>/{train,valid,test}_mels.p          clip -> [T, 80]\n"
            "<root>/{train,valid,test}_sentiment.p     clip -> number from -3 to 3\n"
            "<root>/{train,valid,test}_emotion.p       clip -> 6 numbers\n"
            "<root>/{train,valid,test}_r21d.p          clip -> [T, 512], with --video",
            "see docs/datasets/mosei.md",
            "gradmod.experiments.datasets.mosei:load",
            files=("*_sentences.p", "*_mels.p", "*_sentiment.p", "*_emotion.p"),
            leaving_out="strike its key from the sentences of its part: the clips are those that have a sentence",
            network="gradmod.models.coattention:CoAttention",
            card="docs/datasets/mosei.md",
            options=("labels", "video", "embeddings"),
        ),
        DatasetInfo(
            "npz",
            "Arrays in one file",
            (),
            0,
            "arrays of your own in one .npz file: any modalities, any classes",
            "<root>      one .npz file, as np.savez writes it: y_train, y_test [N] classes; <modality>_train, "
            "<modality>_test [N, ...] numbers",
            "see docs/datasets/npz.md",
            "gradmod.experiments.datasets.npz:load",
            files=(".",),
            encoder="mlp",
            card="docs/datasets/npz.md",
            leaving_out="strike its row from every array of its split",
        ),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """Facts of the data set called `name`; with a colon in it, "folder/file.py:function", of one of the user's own.

    Raises:
        ConfigError: there is none of that name.
    """
    if ":" in name:
        return DatasetInfo(
            name,
            name,
            (),
            0,
            "a data set of the user's own",
            "",
            "",
            loader=name,
            encoder="auto",
            leaving_out=LEFT_OUT_OF_OWN,
        )
    ready = ", ".join(DATASETS)
    info = DATASETS.get(name)
    if info is None:
        raise ConfigError(
            f"data.dataset is {name!r}; expected one of {ready}, or folder/file.py:function for one of your own"
            f"{did_you_mean(name, DATASETS)}"
        )
    return info
