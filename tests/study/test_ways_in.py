"""All that a study is given has an identity: what changes later, or cannot be read, is refused.

What is unknown is said to be unknown.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.confirm.labs import draw_hospital
from tests.examples.conftest import on_path, write_metadata
from tests.extension_files import STEPS, write_blend
from tests.in_process import TINY_GAN, confirm_in_process, save_backbone
from tests.pair_files import draw_xrays, write_patients
from xraytune.base.errors import XraytuneError
from xraytune.base.files import read_json, write_json
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.data.index import read_labelled
from xraytune.data.phantom import paint_phantoms
from xraytune.model.generator_folder import generator_train
from xraytune.search.run import search
from xraytune.space.extensions import EXTENSIONS

pytestmark = pytest.mark.slow

SPACE = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {value: folder}
  synthetic_ratio: {value: 0.2}
  folder: {when: {source: folder}, parameters: {path: {value: extra}}}
  backbone: {value: small_cnn}
  weights: {value: net.safetensors}
  trainable: {value: head}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
resources: {gpus_per_trial: 0}
confirm: {finalists: 1, replicates: 2, controls: {matched: [none], tuned: []}}
"""
LAYERS = "from torch import nn\nclass Layers(nn.Sequential): pass\n"
NET = """\
from torch import nn
from made.layers import Layers
def net():
    return Layers(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""
CLASSES = ("NORMAL", "PNEUMONIA")


@dataclass(frozen=True)
class WayIn:
    """A file that comes in: how it changes, how it becomes unreadable, and who refuses it.

    Attributes:
        overrides: The settings of a study that uses the file.
        test: The `--test` of its confirmation.
        named: What the refusals name.
    """

    named: str
    change: Callable[[Path], object]
    spoil: Callable[[Path], object]
    overrides: tuple[str, ...] = ()
    test: str = ""
    is_search_concerned: bool = True


def an_image(folder: Path) -> Path:
    return min(folder.rglob("NORMAL/*.jpeg"))


def brighten(folder: str) -> Callable[[Path], None]:
    """Save an image of a folder with other levels."""

    def change(root: Path) -> None:
        file = an_image(root / folder)
        with Image.open(file) as image:
            image.point(lambda level: min(255, level + 20)).save(file)

    return change


def truncate(folder: str) -> Callable[[Path], None]:
    """Leave only the beginning of an image of a folder."""

    def spoil(root: Path) -> None:
        file = an_image(root / folder)
        file.write_bytes(file.read_bytes()[:300])

    return spoil


def join_patients(folder: str) -> Callable[[Path], None]:
    """Say in the table of a folder that the first and the last image show the same patient."""

    def change(root: Path) -> None:
        table = root / folder / "patients.csv"
        rows = table.read_text().splitlines()
        patient = rows[1].partition(",")[2]
        rows[-1] = f"{rows[-1].partition(',')[0]},{patient}"
        table.write_text("\n".join(rows))

    return change


def see_more(file: str) -> Callable[[Path], None]:
    """Record that one image more was trained on, in what another hospital sent."""

    def change(root: Path) -> None:
        content = read_json(root / file)
        content["train_images"].append("0" * 64)
        write_json(root / file, content)

    return change


def write(file: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text(text)


def move_to_gpu(root: Path) -> None:
    """Record that the trials were trained on a GPU."""
    file = root / "studies/small/environment.json"
    content = read_json(file)
    content["compute"]["device"] = "cuda"
    write_json(file, content)


GIVEN = ("source=generator", "generator.path=hospital")
NO_TABLE = write("xrays/patients.csv", "x")
WAYS = {
    "images": WayIn("xrays", brighten("xrays/train"), truncate("xrays/train")),
    "table": WayIn("xrays", join_patients("xrays"), NO_TABLE),
    "test folder": WayIn(
        "xrays", brighten("xrays/test"), truncate("xrays/test"), is_search_concerned=False
    ),
    "hospital": WayIn(
        "hospital_b",
        join_patients("hospital_b"),
        truncate("hospital_b"),
        test="hospital_b",
        is_search_concerned=False,
    ),
    "extra images": WayIn("extra", brighten("extra"), truncate("extra")),
    "provenance": WayIn(
        "extra",
        write("extra/provenance.json", '{"train_images": []}'),
        write("extra/provenance.json", "{"),
    ),
    "list": WayIn(
        "seen.txt",
        write("seen.txt", "1" * 64),
        write("seen.txt", "all images of hospital A"),
        ("folder.seen=seen.txt",),
    ),
    "listed images": WayIn(
        "seen",
        brighten("seen"),
        lambda root: shutil.rmtree(root / "seen"),
        ("folder.seen=seen",),
    ),
    "weights": WayIn(
        "net.safetensors",
        lambda root: save_backbone(root / "net.safetensors", seed=1),
        write("net.safetensors", "x"),
    ),
    "generator": WayIn(
        "hospital",
        see_more("hospital/generator.json"),
        write("hospital/generator.json", "{"),
        GIVEN,
    ),
    "donor": WayIn(
        "hospital", see_more("hospital/donor.json"), write("hospital/donor.json", "{"), GIVEN
    ),
    "extension": WayIn(
        "blend",
        write("blend_steps.py", f"{STEPS}# other code\n"),
        write("blend_steps.py", "def finish(:"),
        ("source=blend",),
    ),
    "backbone": WayIn(
        "made",
        write("made/layers.py", f"{LAYERS}# other code\n"),
        write("made/layers.py", "class Layers(:"),
        ("backbone=made", "weights=none", "trainable=all"),
    ),
    "environment": WayIn("small", move_to_gpu, write("studies/small/environment.json", "{")),
}


@pytest.fixture(scope="module")
def drawn(module_path: Path) -> Path:
    """X-rays, and everything else that a study of them can be given."""
    draw_xrays(module_path, patients=60)
    xrays = module_path / "xrays"
    patients = {
        f"{part}/{image.file}": image.patient
        for part in ("train", "test")
        for image in read_labelled(xrays / part, CLASSES).images
    }
    write_patients(xrays, patients)
    draw_hospital(module_path / "extra", seed=2)
    draw_hospital(module_path / "hospital_b", seed=11)
    (module_path / "seen.txt").write_text("0" * 64)
    shutil.copytree(module_path / "extra", module_path / "seen")
    save_backbone(module_path / "net.safetensors")
    (module_path / "small.yaml").write_text(SPACE)
    paint_phantoms(module_path / "others", patients=60, seed=5, image_size_px=32)
    generator_train(
        module_path / "small.yaml",
        out=module_path / "hospital",
        data=module_path / "others",
        overrides=TINY_GAN,
        cache=module_path / "cache",
    )
    write_blend(module_path, "    pretrained_on = ()\n")
    (module_path / "made").mkdir()
    (module_path / "made/__init__.py").write_text(NET)
    (module_path / "made/layers.py").write_text(LAYERS)
    points = {"xraytune.backbones": {"made": "made:net"}}
    write_metadata(module_path, {"name": "made", "version": "1.0", "entry-points": points})
    return module_path


@pytest.fixture
def root(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private copy of it, with the backbone installed; trials run in this process."""
    copy = shutil.copytree(drawn, tmp_path / "lab")
    monkeypatch.chdir(copy)
    with confirm_in_process(), on_path(copy):
        yield copy
    forget_code()


def forget_code() -> None:
    """Let the code be imported anew, as another process does."""
    for name in ("made", "made.layers", "blend", "blend_steps"):
        sys.modules.pop(name, None)
        EXTENSIONS.declared.pop(name, None)
        EXTENSIONS.code.pop(name, None)


def extensions_of(root: Path) -> list[str]:
    forget_code()
    return [f"{root / 'blend.py'}:Blend"]


def search_again(root: Path, *overrides: str) -> Path:
    given = extensions_of(root)
    file = root / "small.yaml"
    return search(file, studies=root / "studies", overrides=overrides, extensions=given).path


def confirm_again(root: Path, test: str = "") -> Confirmation:
    given = extensions_of(root)
    return confirm(root / "studies/small", test=[root / test] if test else [], extensions=given)


@pytest.mark.parametrize("name", WAYS)
def test_what_changes_later_or_cannot_be_read_is_refused_by_name(root: Path, name: str) -> None:
    """A study that uses it neither goes on nor is confirmed; without it, none begins."""
    way = WAYS[name]
    if name == "environment" and torch.cuda.is_available():
        pytest.skip("here is the GPU that the study claims to need")
    search_again(root, *way.overrides)
    if way.test:
        confirm_again(root, way.test)

    for damage in (way.change, way.spoil):
        damage(root)
        if way.is_search_concerned:
            with pytest.raises(XraytuneError, match=way.named):
                search_again(root, *way.overrides)
        with pytest.raises(XraytuneError, match=way.named):
            confirm_again(root, way.test)

    assert not list(root.glob("studies/small/trials/*/error.txt"))
    if way.is_search_concerned and name != "environment":
        with pytest.raises(XraytuneError, match=way.named):
            search_again(root, *way.overrides, "name=fresh")
        assert not (root / "studies/fresh").exists()


@pytest.mark.parametrize(
    ("overrides", "unknown"),
    [
        ((), "which images the extra ones were made from"),
        (("source=blend",), "which images the extra ones were made from"),
        (GIVEN, "net.safetensors"),
    ],
)
def test_what_is_unknown_is_said_with_the_verdict(
    root: Path, overrides: tuple[str, ...], unknown: str
) -> None:
    """Of images from a folder, of an extension, and of weights."""
    search_again(root, *overrides)

    notes = confirm_again(root).notes

    assert any("not known" in note and unknown in note for note in notes), notes
