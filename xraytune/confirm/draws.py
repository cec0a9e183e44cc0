"""The unused patients of a study: K draws to train replicates on, and a test side.

Unused patients are those of the training folder that `data.train_patients` left out. A draw has as many patients as the
search trained on. Draws and test side have about the class shares of the folder, and share no patient.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import chain
from pathlib import Path

from xraytune.base.errors import DataError, Problem, StudyError, join_names
from xraytune.data.findings import targets_of
from xraytune.data.index import ImageIndex
from xraytune.data.prepare import Prepared, patients_seen, prepare_index
from xraytune.data.sides import too_few_unused
from xraytune.data.split import nested_order
from xraytune.space.settings import Settings

TEST = "test"


def divide(
    prepared: Prepared,
    settings: Settings,
    index: ImageIndex,
    replicates: int,
    *,
    cache: Path,
    seen: Collection[str] = (),
    fewest: int = 0,
) -> Prepared:
    """Return a study's images with its unused patients on sides `draw_0`, `draw_1` ..., and on `test` if `fewest` is given.

    Patients with images in `seen`, given as SHA-256, are left out.

    Raises:
        DataError: Fewer than `fewest` patients are left to test on, or a draw lacks a class.
        StudyError: The images changed since the search.
    """
    data = settings.data.model_copy(update={"train_patients": None})
    everyone, _ = prepare_index(index, data, cache, skip_broken=True)
    if everyone.pixels != prepared.pixels:
        what = "unused images were added, changed or removed since the search"
        raise StudyError(Problem(what, data.path, "restore them, or start a new study"))
    known = {image.patient for image in prepared.images} | patients_seen(index.images, seen)
    unused = [image for image in everyone.images if image.patient not in known]
    patients, labels = [image.patient for image in unused], [image.label for image in unused]
    targets = targets_of(labels, [image.findings for image in unused])
    order = nested_order(patients, targets, settings.data.split.seed)
    size = prepared.train_patients
    if problem := too_few_unused(len(order), size, replicates=replicates, fewest=fewest):
        raise DataError(problem)
    sides = dict.fromkeys(chain(*order), TEST if fewest else "others")
    for draw in range(replicates):
        places = [*chain(*order[draw * size : (draw + 1) * size])]
        sides |= dict.fromkeys(places, f"draw_{draw}")
        if missing := {*prepared.class_names} - {prepared.class_names[labels[place]] for place in places}:
            what = f"a draw of {size} patients has no image of {join_names(sorted(missing))}"
            raise DataError(Problem(what, "data.train_patients", "start a search with more patients"))
    side_of = {unused[place].file: side for place, side in sides.items()}
    side_of |= {image.file: image.side for image in prepared.images}
    divided = (replace(image, side=side_of[image.file]) for image in everyone.images if image.file in side_of)
    return replace(prepared, images=tuple(divided), unused=())
