"""Find the site of each image, such as its hospital.

`data.split.site` says where the site is written. Without this setting, the outermost folders are
sites if all of them contain the same class folders.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xraytune.base.errors import DataError, counted, join_names
from xraytune.data.class_folders import folder_class
from xraytune.data.columns import column_values
from xraytune.data.guesses import EMPTY, inner_folders
from xraytune.data.images import ImageFile, ImageIndex, ImageTable
from xraytune.data.patients import EQUAL_IDS, match_patients
from xraytune.space.data_settings import DataSettings

_SETTING = "data.split.site"
_FEWEST_SITES = 3
"""The fewest sites for an interval over sites; with two, Student's t is 12.7."""


def find_sites(listing: ImageIndex, data: DataSettings) -> Mapping[str, str]:
    """Return the site of each image that has one, by its file."""
    site = data.split.site
    images = listing.all_images
    if site is None or site == "folder":
        folders = _outer_folders(listing)
        return folders if site or _are_sites(folders, listing) else {}
    if "(" in site:
        return match_patients(site, [image.file for image in images], _SETTING)
    values = column_values(images, site, data.path)
    return {file: value for file, value in values.items() if value.casefold() not in EMPTY}


def _outer_folders(listing: ImageIndex) -> dict[str, str]:
    """Return the outermost folder of each image, unless this folder is the image's class."""
    names = listing.class_names
    folders_of = {image.file: inner_folders(image.file) for image in listing.all_images}
    return {
        file: folders[0]
        for file, folders in folders_of.items()
        if folders and folder_class(folders[:1], file, names) is None
    }


def _are_sites(folders: Mapping[str, str], listing: ImageIndex) -> bool:
    """Return whether all outermost folders of the training images contain the same classes."""
    names = listing.class_names
    labels_of = defaultdict(set)
    for image in listing.images:
        further = inner_folders(image.file)[1:]
        folder = folders.get(image.file)
        if folder is None or folder_class(further, image.file, names) != names[image.label]:
            return False
        labels_of[folder].add(image.label)
    labels = {image.label for image in listing.images}
    are_complete = all(site_labels == labels for site_labels in labels_of.values())
    return are_complete and len(labels_of) > 1 and len(labels) > 1


def require_sites(images: Iterable[ImageFile], where: Path) -> None:
    """Refuse (DataError) images without a site, and patients with images of two sites.

    A patient with images of two sites would be both trained on and scored if one of the sites is
    left out. Besides, equal IDs at two hospitals usually belong to two people.
    """
    without_site = []
    sites_of = defaultdict(set)
    for image in images:
        sites_of[image.patient].add(image.site)
        if not image.site:
            without_site.append(image.file)
    if without_site:
        raise DataError(
            f"{len(without_site):,} images have no site ({_SETTING}): "
            f"{join_names(without_site, 3)}",
            where,
            "give the name of a column of their table, a DICOM keyword such as InstitutionName, "
            "an expression such as (site[0-9]+)/, or folder; or remove these images",
        )
    shared = [
        f"{patient} ({join_names(sorted(sites))})"
        for patient, sites in sorted(sites_of.items())
        if len(sites) > 1
    ]
    if shared:
        raise DataError(
            f"{len(shared):,} patients have images of several sites: {join_names(shared, 5)}",
            where,
            f"correct {_SETTING}, or remove the images of all sites but one; {EQUAL_IDS}",
        )


def sites_to_leave_out(
    images: Sequence[ImageFile], class_names: Sequence[str], where: Path
) -> tuple[str, ...]:
    """Return the sites of a study, each of which `confirm.leave_out: site` leaves out once.

    Raises DataError if `require_sites` refuses the images, if there are fewer than three sites, or
    if a site lacks a class.
    """
    require_sites(images, where)
    table = ImageTable(images)
    fix = "add images, or use confirm.leave_out: none"
    if len(table.sites) < _FEWEST_SITES:
        raise DataError(
            f"{counted(len(table.sites), 'site')} ({join_names(table.sites)}), and an interval "
            f"over sites needs {_FEWEST_SITES} or more",
            where,
            fix,
        )
    for site in table.sites:
        names_of_site = {class_names[image.label] for image in table if image.site == site}
        missing = [name for name in class_names if name not in names_of_site]
        if missing:
            raise DataError(f"site {site} has no images of {join_names(missing)}", where, fix)
    return table.sites
