"""Compare a data folder with the images that a study recorded when it began.

Each command that reads the folder again makes this comparison. With other patients, one person
could be both trained on and tested on; with other labels, a verdict would answer another question.
"""

from collections import defaultdict
from pathlib import Path

from xraytune.base.errors import StudyError, join_names
from xraytune.data.images import ImageFile, ImageIndex
from xraytune.data.prepare import SplitData

RESTORE = (
    "restore images, patients.csv or label table, or start a study with another name: "
    "--set name=..."
)


def require_same_data(
    recorded: SplitData, now: SplitData | ImageIndex, where: Path, *, is_complete: bool = True
) -> None:
    """Refuse (StudyError) images of a study that have another patient or another label now.

    The patient of an image has changed if the patient's name has, or if the patient has other
    images than before. With `is_complete`, images that were changed or removed are also refused.
    New images are allowed.
    """
    recorded_images = {image.file: image for image in images_without_test(recorded)}
    images_now = {image.file: image for image in images_without_test(now)}
    moved = {
        image.sha256: image for image in images_now.values() if image.file not in recorded_images
    }
    changes = defaultdict(list)
    pairs = []
    for file, image in recorded_images.items():
        image_now = images_now.get(file)
        if image_now is None or image_now.sha256 != image.sha256:
            if is_complete:
                changes["changed or gone"].append(file)
            image_now = moved.get(image.sha256)  # in another class folder, with another label
            if image_now is None:
                continue
        pairs.append((image, image_now))
        label = _label_of(image, recorded)
        new_label = _label_of(image_now, now)
        if label != new_label:
            changes["with another label"].append(f"{file} ({label}, now {new_label})")
    pairs.sort(key=lambda pair: pair[0].patient != pair[1].patient)  # unchanged names first
    now_called: dict[str, str] = {}
    once_called: dict[str, str] = {}
    for image, image_now in pairs:
        # A patient who is called like a file has no name, and files may move.
        name = "unnamed" if image.patient in recorded_images else image.patient
        new_name = "unnamed" if image_now.patient in images_now else image_now.patient
        is_split = now_called.setdefault(image.patient, image_now.patient) != image_now.patient
        is_joined = once_called.setdefault(image_now.patient, image.patient) != image.patient
        if name != new_name or is_split or is_joined:
            change = f"{image.file} ({_shown_patient(image)}, now {_shown_patient(image_now)})"
            changes["with another patient"].append(change)
    texts = [
        f"{len(files)} {what}: {join_names(files, 3)}" for what, files in sorted(changes.items())
    ]
    if texts:
        raise StudyError(
            f"the images changed since the study began: {'; '.join(texts)}", where, RESTORE
        )


def images_without_test(data: SplitData | ImageIndex) -> tuple[ImageFile, ...]:
    """Return the images of a data folder without its test folder, or all that a study recorded."""
    return (*data.images, *data.unused) if isinstance(data, SplitData) else data.images


def _shown_patient(image: ImageFile) -> str:
    return "unnamed" if image.patient == image.file else image.patient


def _label_of(image: ImageFile, data: SplitData | ImageIndex) -> str:
    findings = [
        f"{name} {state}" for name, state in zip(data.findings, image.findings, strict=True)
    ]
    label = ", ".join(findings) or data.class_names[image.label]
    return f"{label} {image.masks_sha256[:8]}".strip()
