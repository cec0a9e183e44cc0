"""Studies of phantoms that are searched and confirmed in this process, without Ray."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from shutil import rmtree
from typing import Any

from tests.in_process import confirm_in_process, search_in_process
from xraytune.cli.results import show_confirm
from xraytune.confirm.run import confirm
from xraytune.data.index import read_labelled
from xraytune.data.phantom import draw_phantoms
from xraytune.space.load import load_space


def search_space(root: Path, space: str, **where: Any) -> Path:
    """Search a space with these images, and return the study."""
    file = root / "space.yaml"
    file.write_text(space, encoding="utf-8")
    return search_in_process(load_space(file, **where), root).path


def show_confirmed(study: Path, **options: Any) -> str:
    """Confirm a study, and return what the command prints."""
    shown = io.StringIO()
    with confirm_in_process(), redirect_stdout(shown):
        show_confirm(confirm(study, **options), {})
    return shown.getvalue()


def draw_hospital(folder: Path, seed: int, **options: Any) -> Path:
    """Draw 48 patients of a hospital in class folders, whose IDs are its own."""
    drawn = folder.with_name(f"{folder.name} drawn")
    draw_phantoms(drawn, patients=60, seed=seed, image_size_px=32, **options)
    (drawn / "train").rename(folder)
    rmtree(drawn)
    images = read_labelled(folder, ("NORMAL", "PNEUMONIA")).images
    rows = ["file,patient"]
    for image in images:
        named = Path(image.file).with_name(f"{folder.name}-{Path(image.file).name}")
        (folder / image.file).rename(folder / named)
        rows.append(f"{named.as_posix()},{folder.name} {image.patient}")
    (folder / "patients.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
