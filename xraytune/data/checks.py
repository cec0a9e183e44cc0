"""What images say against their names and folders: copies, strangers and shortcuts.

Images of one person look alike. This shows if the images of one patient are of strangers, or if one
person counts as several patients. If a class can be told by its site, file format, image size or
grey levels, a classifier may learn these and not the disease.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xraytune.base.arrays import Float64Array, Int64Array, UInt8Array
from xraytune.base.cores import map_on_cores
from xraytune.base.errors import counted
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.base.seeding import numpy_generator
from xraytune.data.copies import Hashes, NearDuplicates, find_near_duplicates, perceptual_hash
from xraytune.data.file_names import known_name, propose_patients
from xraytune.data.images import ImageFile, ImageTable
from xraytune.data.patients import PATIENTS_CSV, match_patients

_THUMBNAIL_PX = 8
_COMPONENTS = 20
_FEWEST_IMAGES = 100
_ALIKE, _STRANGE = 0.1, 0.15
"""One person's images have a likeness (`_likeness`) of .21 to .27 on the X-rays of Kermany, NIH and
Hannover, those of strangers -.01 to .04. So it is more than the first and not less than the second
value for one person."""
_ERRORS = 3.0
"""The distance from these values that is no chance, in standard errors."""
_CONFOUNDED = 0.9
"""The AUROC of an attribute alone from which the classes may be of different hospitals."""
_FEWEST_PATIENTS = 5
_MOST_IMAGES = 5000
"""The fewest patients of a class, and the most images, for the AUROC of an attribute."""


@frozen
class Checks:
    """What the images of a folder show.

    Attributes:
        shortcuts: Attribute, such as `image size` -> the AUROC with which it tells a class from the
            others, cross-validated by patient; the highest of all classes.
        notes: What the user should know of it.
    """

    near_duplicates: NearDuplicates
    shortcuts: dict[str, float]
    notes: tuple[str, ...]


class _Summary(NamedTuple):
    hashed: Hashes  # [4]
    thumbnail: Float64Array  # [64]
    greys: Float64Array  # [4]: mean, standard deviation, and the quantiles .05 and .95


def check_content(
    images: Sequence[ImageFile],
    pixels: Sequence[UInt8Array],
    class_names: Sequence[str],
    *,
    group_regex: str | None = None,
    on_progress: Progress = ignore_progress,
) -> Checks:
    """Check images, each with its pixels, uint8 [S, S] with S >= 32.

    Test images are compared with the others, but nothing else is said of them. `group_regex` is
    that of the settings.
    """
    summaries = [*map_on_cores(_summarise, pixels)]
    hashes = [summary.hashed for summary in summaries]
    near_duplicates = find_near_duplicates(images, hashes, on_progress=on_progress)
    notes = []
    if near_duplicates.pairs:
        notes.append(
            f"{counted(near_duplicates.pairs, 'pair')} of images of different patients look like "
            f"copies, such as {' = '.join(near_duplicates.examples[0])}: remove one image of each "
            f"pair, or give both the same patient in {PATIENTS_CSV}"
        )
    training = [index for index, image in enumerate(images) if image.part != "test"]
    table = ImageTable(images[index] for index in training)
    thumbnails = np.array([summaries[index].thumbnail for index in training])
    notes += _check_patients(table, thumbnails, group_regex)
    aurocs = _find_shortcuts(table, np.array([summaries[index].greys for index in training]))
    notes += _describe_shortcuts(aurocs, class_names)
    return Checks(
        near_duplicates=near_duplicates,
        shortcuts={name: max(of_class.values()) for name, of_class in aurocs.items()},
        notes=tuple(notes),
    )


def _summarise(pixels: UInt8Array) -> _Summary:
    cell_px = len(pixels) // _THUMBNAIL_PX
    side_px = cell_px * _THUMBNAIL_PX
    cells = pixels[:side_px, :side_px].reshape(_THUMBNAIL_PX, cell_px, _THUMBNAIL_PX, cell_px)
    return _Summary(
        hashed=perceptual_hash(pixels),
        thumbnail=cells.mean(axis=(1, 3)).ravel(),
        greys=np.array([pixels.mean(), pixels.std(), *np.quantile(pixels, (0.05, 0.95))]),
    )


def _check_patients(
    images: ImageTable, thumbnails: Float64Array, group_regex: str | None
) -> Iterator[str]:
    """Yield notes if images contradict their patients; lateral views and copies are left out."""
    index_of = {
        image.sha256: index for index, image in enumerate(images) if not image.is_other_view
    }
    indices = [*index_of.values()]
    if len(indices) < _FEWEST_IMAGES:
        return
    features = _whiten(thumbnails[indices], images.labels[indices])
    frontal = [images[index] for index in indices]
    indices_by_patient = defaultdict(list)
    apart: dict[str, dict[str, int]] = defaultdict(dict)
    stems = _find_stems([image.file for image in frontal])
    for index, image in enumerate(frontal):
        indices_by_patient[image.patient].append(index)
        # Without an expression, the note on file names has said what they share.
        if image.file in stems and (group_regex or image.patient != image.file):
            apart[stems[image.file]].setdefault(image.patient, index)

    groups = [indices for indices in indices_by_patient.values() if len(indices) > 1]
    likeness, error = _likeness(features, groups)
    if likeness + _ERRORS * error < _STRANGE:
        files = " and ".join(frontal[index].file for index in groups[0][:2])
        yield (
            f"images of one patient, such as {files}, look no more alike than those of strangers: "
            "check what names the patients"
        )
    groups = [[*indices.values()] for indices in apart.values() if len(indices) > 1]
    likeness, error = _likeness(features, groups)
    if likeness - _ERRORS * error > _ALIKE:
        files = " and ".join(frontal[index].file for index in groups[0][:2])
        yield (
            f"images of different patients with similar names, such as {files}, look like those of "
            "one: check what names the patients"
        )


def _find_stems(files: Sequence[str]) -> dict[str, str]:
    """Return what the names of files have in common if they may be of one patient."""
    known = {file: name.patient for file in files if (name := known_name(file))}
    unknown = [file for file in files if file not in known]
    proposal = propose_patients(unknown)
    return known | (match_patients(proposal.group_regex, unknown) if proposal else {})


def _whiten(thumbnails: Float64Array, labels: Int64Array) -> Float64Array:
    """Return unit vectors, [N, 20], of which those of different people are nearly orthogonal.

    They are the principal components of the thumbnails, [N, 64], each with the same variance, after
    brightness, contrast and the mean of each class are removed.
    """
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    centred /= centred.std(axis=1, keepdims=True).clip(1.0)
    for label in np.unique(labels):
        centred[labels == label] -= centred[labels == label].mean(axis=0)
    components, _, _ = np.linalg.svd(centred, full_matrices=False)
    features: Float64Array = components[:, :_COMPONENTS]
    features /= np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    return features


def _likeness(features: Float64Array, groups: Iterable[Sequence[int]]) -> tuple[float, float]:
    """Return the mean cosine of images in the same group, and its standard error for strangers.

    A group of n images counts n - 1 times; without groups, both are NaN.
    """
    means = []
    weights = []
    for indices in groups:
        cosines = features[indices] @ features[indices].T
        means.append(cosines[np.triu_indices(len(indices), k=1)].mean())
        weights.append(len(indices) - 1)
    if not means:
        return np.nan, np.nan
    error = 1 / np.sqrt(features.shape[1] * sum(weights))
    return float(np.average(means, weights=weights)), float(error)


def _find_shortcuts(images: ImageTable, greys: Float64Array) -> dict[str, dict[int, float]]:
    """Return the AUROC of each class against the others by each attribute that differs.

    Returns nothing if a class has too few patients. `greys` is [N, 4].
    """
    # These imports take a second.
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    sample = numpy_generator(0, "shortcuts").permutation(len(images))[:_MOST_IMAGES]
    table = ImageTable(images[index] for index in sample)
    labels = table.labels
    patients = np.array(table.patients)
    classes = np.unique(labels)
    patients_of = [len(np.unique(patients[labels == label])) for label in classes]
    if len(classes) < 2 or min(patients_of) < _FEWEST_PATIENTS:
        return {}
    sites = [image.site for image in table]
    kinds = [image.kind for image in table]
    sizes = [
        (image.width_px, image.height_px, image.width_px / max(image.height_px, 1))
        for image in table
    ]
    attributes = {
        "site": np.unique(sites, return_inverse=True)[1][:, None],
        "file format": np.unique(kinds, return_inverse=True)[1][:, None],
        "image size": np.array(sizes),
        "grey levels": greys[sample],
    }
    aurocs = {}
    for name, values in attributes.items():
        if (values == values[0]).all():
            continue
        shares = cross_val_predict(
            RandomForestClassifier(50, min_samples_leaf=5, random_state=0),
            values,
            labels,
            groups=patients,
            cv=StratifiedGroupKFold(_FEWEST_PATIENTS, shuffle=True, random_state=0),
            method="predict_proba",
        )
        aurocs[name] = {
            int(label): float(roc_auc_score(labels == label, shares[:, index]))
            for index, label in enumerate(classes)
        }
    return aurocs


def _describe_shortcuts(
    aurocs: Mapping[str, Mapping[int, float]], class_names: Sequence[str]
) -> Iterator[str]:
    """Yield a note for each class that attributes tell; of two classes, for the second one."""
    for label, name in enumerate(class_names):
        has_several = len(class_names) > 2
        which = f"{name} from the others" if has_several else "the classes"
        telling = [
            f"{attribute} (AUROC {of_class[label]:.2f})"
            for attribute, of_class in aurocs.items()
            if of_class.get(label, 0) >= _CONFOUNDED
        ]
        if telling and (label == 1 or has_several):
            yield (
                f"a classifier can tell {which} by {' or '.join(telling)} alone: they may be of "
                "different hospitals or machines, and a verdict is then about these"
            )
