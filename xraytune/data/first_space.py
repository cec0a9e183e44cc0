"""A search space that is written from a folder of images and the machine, to start with.

It searches the same as the shipped spaces, in a size that suits the images. Each line says why it
is there.
"""

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from unicodedata import normalize

from xraytune.base.errors import counted, join_names, printable
from xraytune.base.files import write_text
from xraytune.base.records import Progress, ignore_progress
from xraytune.base.templates import open_templates
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_folder
from xraytune.data.sides import FEWEST_UNUSED
from xraytune.space.load import data_settings, is_data_file
from xraytune.space.settings import DataSettings, TaskName
from xraytune.stats.classification import FEWEST_LABELS

_SIZES_PX = (32, 64, 128, 224)
_TRAIN_PATIENTS = {True: (400, 200, 100, 50), False: (100, 50)}
"""These are the values with and without a GPU, the largest first."""
_MANY_PATIENTS = 1000
_LEARNING_RATES = {
    (False, True): ("1e-5", "3e-3", "1e-4"),
    (False, False): ("3e-4", "3e-2", "3e-3"),
    (True, True): ("1e-4", "3e-3", "1e-3"),
    (True, False): ("3e-4", "1e-2", "3e-3"),
}
"""The least, the most and the first, for masks or not, and with a GPU or not."""
_RARE = 0.1
"""The share of a class below which the space also searches what helps rare classes."""
_REPLICATES, _MOST_REPLICATES = 5, 10


def first_space_path(data: Path) -> Path:
    """Return the file, in the current folder, of the space that is written for some data."""
    path = data.resolve()
    return Path(f"{path.stem}_space.yaml" if is_data_file(data) else f"{path.name}.yaml")


def write_first_space(
    data: Path, out: Path, *, has_gpu: bool, on_progress: Progress = ignore_progress
) -> str:
    """Write a search space for a data folder or a data file (YAML).

    Returns a description of the data that the space was written from.

    Args:
        data: The data, as for `search --data`.
        out: The new file.
        has_gpu: Whether trials run on GPUs.
        on_progress: Called with the number of images read.

    Raises DataError if the images cannot be used.
    """
    settings = data_settings(data, DataSettings(path=data.absolute()))
    index = read_folder(settings, on_progress=on_progress)
    task = _task_of(index)
    images = index.images
    patients = len({*images.patients})
    val_share = 0.1 if patients >= _MANY_PATIENTS else 0.2
    split = {"val_a": val_share, "val_b": val_share, "seed": 7}
    split |= settings.split.model_dump(exclude_defaults=True)  # of a data file
    unused = patients - sum(round(split[side] * patients) for side in ("val_a", "val_b"))
    train_patients = _choose_train_patients(unused, has_gpu)
    replicates = _REPLICATES
    if train_patients:
        most = (unused - FEWEST_UNUSED) // train_patients - 1
        replicates = min(max(most, _REPLICATES), _MOST_REPLICATES)
    classes = Counter(images.labels.tolist())
    rarest = min(classes, key=lambda label: classes[label])
    is_imbalanced = task == "classification" and classes[rarest] < _RARE * len(images)
    content = settings.model_dump(
        mode="json", exclude_defaults=True, exclude={"split"}, context=out.absolute().parent
    )
    image_px, reason = _choose_size(index, task, has_gpu)
    facts = _describe(index, task)
    template = open_templates("xraytune.data", finalize=_one_line).get_template("first_space.yaml")
    text = template.render(
        facts=facts,
        takes_all_folders=task == "classification" and settings.table is None,
        has_gpu=has_gpu,
        file=shlex.quote(str(out)),
        name=_study_name(out.name.removesuffix(".yaml")),
        task=task,
        data={key: _as_yaml(value) for key, value in content.items()},
        image_px=image_px,
        image_px_reason=reason,
        split=", ".join(f"{key}: {_as_yaml(value)}" for key, value in split.items()),
        train_patients=train_patients,
        is_imbalanced=is_imbalanced,
        rarest=index.class_names[rarest],
        lr=_LEARNING_RATES[task == "segmentation", has_gpu],
        replicates=replicates,
        confirm_reason=_describe_confirmation(index, train_patients),
    )
    write_text(out, text)
    return facts


def _describe(index: ImageIndex, task: TaskName) -> str:
    """Return a text with the numbers of images and patients, and the classes or findings."""
    patients = counted(len({*index.images.patients}), "patient")
    images = counted(len(index.images), "image")
    if task == "segmentation":
        return f"{images} of {patients} with masks"
    facts = f"{images} of {patients}"
    kind = "findings" if task == "findings" else "classes"
    return f"{facts} ({kind}: {join_names(index.outputs)})"


def _study_name(text: str) -> str:
    """Return the name of a study, which has no blanks, umlauts and the like."""
    ascii_text = normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9.]+", "-", ascii_text).strip("-.")[:64]
    return name or "first-space"


def _as_yaml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _one_line(value: object) -> str:
    """Return what a template inserts; names of folders and classes may contain line feeds."""
    return printable(f"{value}").replace("\n", r"\n")


def _task_of(index: ImageIndex) -> TaskName:
    if any(image.masks for image in index.images):
        return "segmentation"
    return "findings" if index.findings else "classification"


def _choose_train_patients(unused: int, has_gpu: bool) -> int | None:
    """Return how many patients to train on so that draws and 300 to score are left, or None."""
    for count in _TRAIN_PATIENTS[has_gpu]:
        if unused >= (1 + _REPLICATES) * count + FEWEST_UNUSED:
            return count
    return None


def _choose_size(index: ImageIndex, task: TaskName, has_gpu: bool) -> tuple[int, str]:
    widths = sorted(image.width_px or _SIZES_PX[-1] for image in index.images)
    median_px = widths[len(widths) // 2]
    usual_px = 128
    if task == "segmentation" and not has_gpu:
        usual_px = 64
    if task == "findings" and has_gpu:
        usual_px = 224
    fitting = [size for size in _SIZES_PX if size <= min(usual_px, median_px)]
    size_px = fitting[-1] if fitting else _SIZES_PX[0]
    if size_px < usual_px:
        return size_px, f"half of the images are at most {median_px} px wide"
    return size_px, "more detail takes more time"


def _describe_confirmation(index: ImageIndex, train_patients: int | None) -> str:
    if train_patients:
        return f"on as many draws of {train_patients} patients that the search does not use"
    if len(index.test) >= FEWEST_LABELS:
        return "on the test folder"
    return "too few patients to test on: `xraytune confirm STUDY --test DIR` adds some"
