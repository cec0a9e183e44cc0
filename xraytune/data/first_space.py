"""A search space that is written from a folder of images and the machine, to start with.

It searches the same as the shipped spaces, in a size that suits the images. Each line says why it
is there.
"""

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from xraytune.base.errors import ConfigError, counted, join_names, printable
from xraytune.base.files import require_writable, write_text
from xraytune.base.records import Note, Progress, ignore_progress
from xraytune.base.templates import open_templates
from xraytune.data.draws import (
    FEWEST_UNUSED,
    DrawDesign,
    choose_draws,
    patients_needed,
    population_of,
)
from xraytune.data.file_names import propose_patients
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_folder
from xraytune.data.sides import sizes_of_index, too_few_tested
from xraytune.space.data_settings import DataSettings, SplitSettings
from xraytune.space.load import FINDING_KEYS, data_settings, is_data_file
from xraytune.space.search_settings import Confirm
from xraytune.space.task_settings import CLASS_TASKS, TaskName
from xraytune.stats.precision import LIKELY_AUROC

_OF_IMAGES = ("data.classes=", "data.positive=", "data.split.")
_SIZES_PX = (32, 64, 128, 224)
_TRAIN_PATIENTS = {True: (10, 25, 50, 100, 200, 400), False: (10, 25, 50, 100)}
"""These are the values with and without a GPU."""
_VALIDATED = ((1000, 0.1), (150, 0.15), (0, 0.2))
"""Numbers of patients, and the share that each validation side has from there on; smaller shares
choose worse trials (docs/decisions/0058-sides-of-a-search.md)."""
_LEARNING_RATES = {
    (False, True): ("1e-5", "3e-3", "1e-4"),
    (False, False): ("3e-4", "3e-2", "3e-3"),
    (True, True): ("1e-4", "3e-3", "1e-3"),
    (True, False): ("3e-4", "1e-2", "3e-3"),
}
"""The least, the most and the first, for masks or not, and with a GPU or not."""
_RARE = 0.1
"""The share of a class below which the space also searches what helps rare classes."""
_REPLICATES = 5
"""Replicates that are scored on the test folder."""
_FEWEST_TRAINED = 50
"""If there is a test folder, all patients are trained on rather than fewer than this."""


def first_space_path(data: Path) -> Path:
    """Return the file, in the current folder, of the space that is written for some data."""
    path = data.resolve()
    return Path(f"{path.stem}_space.yaml" if is_data_file(data) else f"{path.name}.yaml")


def open_first_space(
    data: Path | None,
    overrides: Sequence[str],
    *,
    has_gpu: bool,
    note: Note,
    on_progress: Progress,
) -> Path:
    """Return the space file of some data, and write it if it does not exist.

    The arguments are those of `write_first_space`; `note` is called with what was done.

    Raises ConfigError without data, and what `write_first_space` raises.
    """
    if data is None:
        raise ConfigError(
            "there is neither a space nor a data folder", fix="write --data FOLDER, or --space FILE"
        )
    file = first_space_path(data)
    if file.exists():
        note(f"{file} is there already, so no space was written")
    else:
        require_writable(Path.cwd())  # before the images are read
        facts = write_first_space(data, file, overrides, has_gpu=has_gpu, on_progress=on_progress)
        note(f"wrote {file} from {facts}; it says why it searches what")
    return file


def write_first_space(
    data: Path,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    has_gpu: bool,
    on_progress: Progress = ignore_progress,
) -> str:
    """Write a search space for a data folder or a data file (YAML).

    Returns a description of the data that the space was written from.

    Args:
        data: The data, as for `search --data`.
        out: The new file.
        overrides: `key=value` settings; those of classes and patients are written into the file.
        has_gpu: Whether trials run on GPUs.
        on_progress: Called with the number of images read.

    Raises DataError if the images cannot be used.
    """
    image_overrides = [override for override in overrides if override.startswith(_OF_IMAGES)]
    settings = data_settings(data, DataSettings(path=data.absolute()), image_overrides)
    index = read_folder(settings, on_progress=on_progress)
    task = _task_of(index)
    images = index.images
    patients = len({*images.patients})
    val_share = next(share for fewest_patients, share in _VALIDATED if patients >= fewest_patients)
    split = {"val_a": val_share, "val_b": val_share, "seed": 7}
    split |= settings.split.model_dump(exclude_defaults=True)  # of a data file
    draws, confirm_reason = _choose_draws(index, split, _TRAIN_PATIENTS[has_gpu])
    classes = Counter(images.labels.tolist())
    rarest = min(classes, key=lambda label: classes[label])
    is_imbalanced = task == "classification" and classes[rarest] < _RARE * len(images)
    left_out = {"split"}
    if task in CLASS_TASKS:
        left_out |= {*FINDING_KEYS}
    content = settings.model_dump(
        mode="json", exclude_defaults=True, exclude=left_out, context=out.absolute().parent
    )
    image_px, reason = _choose_size(index, task, has_gpu)
    facts = _describe(index, task)
    template = open_templates("xraytune.data", finalize=_one_line).get_template("first_space.yaml")
    text = template.render(
        facts=facts,
        takes_all_folders=task == "classification" and settings.table is None,
        proposal=propose_patients([image.file for image in images if image.patient == image.file]),
        has_gpu=has_gpu,
        file=shlex.quote(str(out)),
        name=_study_name(out.name.removesuffix(".yaml")),
        task=task,
        data={key: _as_yaml(value) for key, value in content.items()},
        image_px=image_px,
        image_px_reason=reason,
        split=", ".join(f"{key}: {_as_yaml(value)}" for key, value in split.items()),
        train_patients=draws and draws.train_patients,
        is_imbalanced=is_imbalanced,
        rarest=index.class_names[rarest],
        lr=_LEARNING_RATES[task == "segmentation", has_gpu],
        replicates=draws.precision.replicates if draws else _REPLICATES,
        confirm_reason=confirm_reason,
    )
    write_text(out, text)
    return facts


def _describe(index: ImageIndex, task: TaskName) -> str:
    """Return a text with the numbers of images and patients, and the classes or findings."""
    patients = counted(len({*index.images.patients}), "patient")
    facts = f"{counted(len(index.images), 'image')} of {patients}"
    if task == "segmentation":
        return f"{facts} with masks"
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


def _choose_draws(
    index: ImageIndex,
    split: Mapping[str, Any],
    sizes: Sequence[int],
) -> tuple[DrawDesign | None, str]:
    """Choose how many patients to train on; None for all, if the test folder is to be scored.

    Also returns what will be scored, in words.
    """
    data = DataSettings(path=index.root, split=SplitSettings(**split))
    train, *_ = sizes_of_index(index, data)
    can_score_folder = not too_few_tested(index.test, index.outputs)
    fewest_tested = 1
    if can_score_folder:
        fewest_tested = FEWEST_UNUSED
        sizes = [size for size in sizes if size >= _FEWEST_TRAINED]
    population = population_of(index.images, index.positive)
    draws = None
    if population:
        draws = choose_draws(
            population,
            train.patient_count,
            sizes,
            LIKELY_AUROC,
            fewest_tested=fewest_tested,
            enough=Confirm().rope,
        )
    if draws:
        unused = train.patient_count - draws.train_patients
        return draws, (
            f"each on its own draw of {draws.train_patients} of the {unused:,} patients that the "
            "search does not use, and scored on others of these"
        )
    if can_score_folder:
        return None, "on the test folder"
    needed = "more patients with and without a finding"
    if population:
        scale = population.patients / train.patient_count
        needed = f"about {math.ceil(scale * patients_needed(population, sizes)):,} patients"
    return None, (
        f"no verdict can be had: it takes {needed}, or test images of others "
        "(`xraytune confirm STUDY --test DIR`)"
    )


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
