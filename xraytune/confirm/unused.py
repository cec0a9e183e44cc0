"""Draws from the patients that a search left unused, and the patients that test each draw.

A draw has about the class shares of the folder. With many unused patients, the draws (sides
`draw_0`, `draw_1` ...) and the test side share no patient. With fewer, all are on the test side,
and each replicate is scored on those outside its draw (`SplitData.draws`).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from xraytune.base.errors import DataError, join_names
from xraytune.base.seeding import derive_seed
from xraytune.confirm.arms import TestKind
from xraytune.data.draws import STUDY_REMEDIES, Remedies, too_few_outside, too_few_unused
from xraytune.data.images import LENDERS, ImageFile, ImageIndex, ImageTable
from xraytune.data.prepare import SplitData, patients_seen
from xraytune.data.sides import side_sizes, too_few_tested
from xraytune.data.sites import sites_to_leave_out
from xraytune.data.split import nested_order
from xraytune.space.settings import Settings

TEST = "test"
"""The side of the unused patients who are scored."""


def divide_unused(
    prepared: SplitData,
    settings: Settings,
    index: ImageIndex,
    replicates: int,
    kind: TestKind,
    *,
    seen_sha256: Collection[str],
    fewest_tested: int,
    sites: tuple[str, ...] = (),
    remedies: Remedies = STUDY_REMEDIES,
) -> SplitData:
    """Return a study's images with its unused patients on sides `draw_0`, `draw_1` ...

    If `kind` is `draws`, patients who are in no draw are lenders, else on `test`. If it is
    `outside`, all unused patients are on `test`, and nobody is drawn again before everybody
    was drawn. With `sites`, each draw leaves out the patients of one site. Patients with images in
    `seen_sha256` are left out, and so are images that the study did not record: broken ones, and
    those that were added since.

    Raises DataError if fewer than `fewest_tested` patients are left to test on, too few patients
    are of a site, or a draw lacks a class.
    """
    recorded_images = {image.file: image for image in (*prepared.images, *prepared.unused)}
    images = [
        replace(image, row=recorded.row, site=recorded.site)
        for image in index.images
        if (recorded := recorded_images.get(image.file))
    ]
    side_of = {image.patient: image.side for image in prepared.images}
    excluded_patients = side_of.keys() | patients_seen(index.images, seen_sha256)
    unused = ImageTable(images).without(excluded_patients)
    unused_count = len({*unused.patients})
    size = prepared.train_patient_count
    if kind == "outside":
        problem = too_few_outside(
            unused_count, size, fewest_tested=fewest_tested, remedies=remedies
        )
    else:
        problem = too_few_unused(
            unused_count,
            size,
            replicates=replicates,
            fewest_tested=fewest_tested,
            is_fixed=bool(sites),
            remedies=remedies,
        )
    if problem:
        raise DataError(problem)

    fewer = f"add patients, or {remedies.have_enough()}"
    draws: list[tuple[str, ...]] = []
    side_of |= dict.fromkeys(unused.patients, LENDERS if kind == "draws" else TEST)
    drawn = _draw_patients(
        unused,
        size,
        sites or [None] * replicates,
        settings.data.split.seed,
        may_share=kind == "outside",
        fewer=fewer,
    )
    for draw, patients in enumerate(drawn):
        members = {*patients}
        drawn_images = [image for image in unused if image.patient in members]
        require_every_class(drawn_images, prepared, size, remedies.setting)
        if kind == "outside":
            draws.append(tuple(patients))
        else:
            side_of |= dict.fromkeys(patients, f"draw_{draw}")
    divided = replace(
        prepared,
        images=tuple(
            replace(image, side=side_of[image.patient])
            for image in images
            if image.patient in side_of
        ),
        unused=(),
        left_out_sites=sites,
        draws=tuple(draws),
    )
    _require_sites(divided, fewer)
    for draw in range(len(draws)):
        if few := too_few_tested(divided.of_draw(draw).side(TEST), prepared.outputs):
            raise DataError(f"outside a draw: {few}", remedies.setting, fewer)
    return divided


def _draw_patients(
    unused: ImageTable,
    size: int,
    sites: Sequence[str | None],
    seed: int,
    *,
    may_share: bool,
    fewer: str,
) -> Iterator[list[str]]:
    """Yield the patients of each draw, in order, without those of the site that it leaves out.

    If draws may share patients, nobody is drawn again before everybody was drawn. `fewer` says how
    to have enough patients.
    """
    site_of = {image.patient: image.site for image in unused}
    order = patients_in_order(unused, seed)
    for draw, site in enumerate(sites):
        if may_share and len(order) < size:
            order += patients_in_order(unused, derive_seed(seed, "drawn again", draw))
        candidates = dict.fromkeys(patient for patient in order if site_of[patient] != site)
        drawn = [*candidates][:size]
        if len(drawn) < size:
            what = f"without site {site}, {len(drawn)} unused patients are left for a"
            raise DataError(f"{what} draw of {size}", "confirm.leave_out", fewer)
        for patient in drawn:
            order.remove(patient)
        yield drawn


def patients_in_order(images: ImageTable, seed: int) -> list[str]:
    """Return the patients in the order in which `data.train_patients` keeps them."""
    patients = images.patients
    order = nested_order(patients, images.targets, seed)
    return [patients[indices[0]] for indices in order]


def left_out_sites(settings: Settings, prepared: SplitData) -> tuple[str, ...]:
    """Return the site that each replicate leaves out; empty unless `confirm.leave_out` is `site`.

    Raises DataError as `sites_to_leave_out` does.
    """
    if settings.confirm.leave_out == "none":
        return ()
    images = (*prepared.images, *prepared.unused)
    return sites_to_leave_out(images, prepared.class_names, settings.data.path)


def _require_sites(prepared: SplitData, fewer: str) -> None:
    """Refuse (DataError) a site with too few test patients, or whose images validation needs.

    Validation needs a site's images if it could not score without them. `fewer` says how to have
    enough patients.
    """
    where = "confirm.leave_out"
    for draw, site in enumerate(prepared.left_out_sites):
        replicate = prepared.of_draw(draw)
        site_images = [image for image in prepared.side(TEST) if image.site == site]
        if problem := too_few_tested(site_images, prepared.outputs):
            raise DataError(f"site {site}: {problem}", where, fewer)
        for side in side_sizes(replicate)[1:]:
            if problem := side.lacking():
                raise DataError(
                    f"without site {site}, {side.name} has too few patients: {problem}",
                    where,
                    "use larger validation sides (data.split)",
                )


def require_every_class(
    images: Iterable[ImageFile],
    prepared: SplitData,
    patients: int,
    setting: str = STUDY_REMEDIES.setting,
) -> None:
    """Refuse (DataError) a sample of `patients` patients, a `setting`, that lacks a class."""
    names = prepared.class_names
    classes = {*names} - {names[image.label] for image in images}
    if classes:
        raise DataError(
            f"a draw of {patients} patients has no image of {join_names(sorted(classes))}",
            setting,
            "use more patients",
        )
