"""What `xraytune data inspect` prints."""

from collections.abc import Sequence
from pathlib import Path

from xraytune.base.records import to_json
from xraytune.cli import console
from xraytune.data.index import read_folder
from xraytune.data.inspect import inspect_index
from xraytune.data.sides import sizes_of_index
from xraytune.data.split import part_notes
from xraytune.present.inspection import inspection_frame
from xraytune.space.settings import DataSettings


def show_inspection(
    source: Path, settings: DataSettings, overrides: Sequence[str], *, as_json: bool
) -> None:
    """Inspect a data source, print the result, and propose a command with these overrides."""
    with console.progress() as on_progress:
        index = read_folder(settings, on_progress=on_progress)
        sizes = sizes_of_index(index, settings)
        inspection = inspect_index(index, on_progress=on_progress)
    uses = part_notes(index)
    if as_json:
        sides = {size.name: to_json(size) for size in sizes}
        console.show_json(to_json(inspection) | {"parts": uses, "sides": sides})
        return
    console.show(*inspection_frame(source, inspection, uses, sizes))
    space = "gan_ratio_cpu"
    if inspection.findings:
        space = "findings_ratio_cpu"
    if inspection.mask_areas:
        space = "gan_segmentation_cpu"
    console.propose("curve", "--space", space, given={"data": source, "overrides": overrides})
