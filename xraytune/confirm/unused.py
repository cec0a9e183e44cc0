"""Draws from the patients that a search left unused, and the patients that test each draw.

A draw has about the class shares of the folder. With many unused patients, the draws (sides
`draw_0`, `draw_1` ...) and the test side share no patient. With fewer, all are on the test side,
and each replicate is scored on those outside its draw (`SplitData.draws`).
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import chain

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
    excluded_patients = {image.patient for image in prepared.images} | patients_seen(
        index.images, seen_sha256
    )
    recorded_images = {image.file: image for image in (*prepared.images, *prepared.unused)}
    images = [
        replace(image, row=recorded.row, site=recorded.site)
        for image in index.images
        if (recorded := recorded_images.get(image.file))
    ]
    unused = ImageTable(images).without(excluded_patients)
    seed = settings.data.split.seed
    order = nested_order(unused.patients, unused.targets, seed)
    size = prepared.train_patient_count
    if kind == "outside":
        problem = too_few_outside(len(order), size, fewest_tested=fewest_tested, remedies=remedies)
    else:
        problem = too_few_unused(
            len(order),
            size,
            replicates=replicates,
            fewest_tested=fewest_tested,
            is_fixed=bool(sites),
            remedies=remedies,
        )
    if problem:
        raise DataError(problem)
    fewer = f"add patients, or {remedies.have_enough()}"
    side_of = {image.file: image.side for image in prepared.images}
    side_of |= dict.fromkeys((image.file for image in unused), LENDERS if kind == "draws" else TEST)
    draws: list[tuple[str, ...]] = []
    for draw in range(replicates):
        if kind == "outside" and len(order) < size:
            again = derive_seed(seed, "drawn again", draw)
            order += nested_order(unused.patients, unused.targets, again)
        site = sites[draw] if sites else None
        candidates = [indices for indices in order if unused[indices[0]].site != site]
        drawn = [*dict.fromkeys(candidates)][:size]
        if len(drawn) < size:
            what = f"without site {site}, {len(drawn)} unused patients are left for a"
            raise DataError(f"{what} draw of {size}", "confirm.leave_out", fewer)
        for indices in drawn:
            order.remove(indices)
        members = [unused[index] for index in chain(*drawn)]
        require_every_class(members, prepared, size, remedies.setting)
        if kind == "outside":
            draws.append(tuple(unused[indices[0]].patient for indices in drawn))
        else:
            side_of |= dict.fromkeys((image.file for image in members), f"draw_{draw}")
    divided_files = (
        replace(image, side=side_of[image.file]) for image in images if image.file in side_of
    )
    divided_images = replace(
        prepared,
        images=tuple(divided_files),
        unused=(),
        left_out_sites=sites,
        draws=tuple(draws),
    )
    _require_sites(divided_images, fewer)
    for draw in range(len(draws)):
        scored_images = divided_images.of_draw(draw).side(TEST)
        if few := too_few_tested(scored_images, prepared.outputs):
            raise DataError(f"outside a draw: {few}", remedies.setting, fewer)
    return divided_images


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
