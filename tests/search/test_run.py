"""A search before its first trial, and without any."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.in_process import command, confirm_in_process, save_backbone, search_in_process
from tests.pair_files import draw_xrays, swap_classes
from xraytune.base.errors import ConfigError, DataError, MachineError, StudyError
from xraytune.base.files import read_jsonl
from xraytune.data.phantom import paint_phantoms
from xraytune.model.generator_folder import generator_train
from xraytune.model.train import train
from xraytune.search.callbacks import Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.search.run import search
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder, work_on
from xraytune.study.status import StudyView, status

pytestmark = pytest.mark.slow

SPACE = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {value: none}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
"""


STUDY = StudyFolder(Path("studies/small"))


@pytest.fixture
def space(here: Path) -> Iterator[Path]:
    """A space file next to its X-rays, in the current folder; its trials run in this process."""
    draw_xrays(here, patients=24)
    path = here / "small.yaml"
    path.write_text(SPACE)
    with confirm_in_process():
        yield path


def run(
    space: Path,
    *overrides: str,
    data: Path | None = None,
    weights_dir: Path | None = None,
    **callbacks: Any,
) -> StudyView:
    return search(
        space,
        overrides=overrides,
        data=data,
        weights_dir=weights_dir,
        callbacks=Callbacks(**callbacks),
    )


def test_concurrently_created_study_is_not_continued(space: Path) -> None:
    def search_another(*_: object) -> None:
        if not STUDY.path.exists():
            search_in_process(load_space(space, ["batch_size=4"]), space.parent)

    with pytest.raises(StudyError, match="another space"):
        run(space, "budget.trials=2", on_progress=search_another)

    (row,) = read_jsonl(STUDY.path / "trials.jsonl")
    assert row["parameters"]["batch_size"] == 4


def test_a_search_resumes_only_on_a_machine_with_room_for_its_trials(space: Path) -> None:
    """Its trials would wait forever; a search that has ended needs no room."""
    larger = "resources.generator={cpus: 2}"
    run(space)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xraytune.search.run.Runner", Runner)

        run(space, larger)
        with pytest.raises(MachineError, match=r"2 CPU cores .* only 1 core"):
            run(space, "budget.trials=2", larger)


def test_finished_search_reports_the_spent_budget_and_status_shows_that_of_the_last_start(
    space: Path,
) -> None:
    run(space)

    for key, overrides in (("trials", []), ("hours", ["budget.trials=9", "budget.hours=1e-9"])):
        notes = list[str]()
        run(space, *overrides, note=notes.append)
        expected = (
            f"budget.{key} is used up after 1 trial; "
            f"to continue, raise it with --set budget.{key}=N"
        )
        assert notes[-1] == expected
    run(space, "budget.trials=2", "budget.hours=0.5")

    view = status(STUDY.path)
    assert (view.trial_budget, view.seconds_budget) == (2, 1800.0)


def test_a_new_search_says_first_what_its_verdict_could_tell_and_how_long_it_takes(
    space: Path,
) -> None:
    """Not when it resumes."""
    first, again = (command("search", "--space", space).stderr for _ in range(2))

    assert "plan: the width of the verdict's interval" in first
    assert "expect about a minute of search" in first
    assert "plan: " not in again


def test_settings_that_change_no_trial_are_those_of_the_last_start(space: Path) -> None:
    """Also if the budget is used up. Other commands read them from the study."""
    run(space)

    run(space, "final.max_epochs=3", "resources.concurrent=7")
    settings = STUDY.space().settings

    assert settings.final is not None
    assert (settings.final.max_epochs, settings.resources.concurrent) == (3, 7)
    with pytest.raises(StudyError, match=r"another space(.|\n)*replicates: 9"):
        run(space, "confirm.replicates=9")
    with pytest.raises(ConfigError, match=r"gan\.steps: no trial"):
        run(space, "gan.steps=9")


def test_a_resumed_search_holds_the_lock_of_its_study_while_it_reads_the_images(
    space: Path,
) -> None:
    works = list[str]()
    run(space)

    run(space, note=lambda text: works.append(work_on(STUDY) if "train: " in text else ""))

    assert "searched" in works


def test_what_will_be_wrong_later_is_noted_before_the_study_is_created(space: Path) -> None:
    """Small learning rates that are hardly ever drawn, and a test folder that is too small."""
    notes = list[str]()
    for file in sorted(Path("xrays/test/NORMAL").iterdir())[1:]:
        file.unlink()

    def note(text: str) -> None:
        notes.append(text)
        if text.startswith("`confirm` cannot score test/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(space, "lr={min: 1e-5, max: 1e-1}", note=note)

    drawn = "lr: 1e-05 to 0.1 is drawn uniformly: nine of ten values are above 0.01"
    assert drawn in notes[1]
    assert "too few test patients: NORMAL 1" in notes[-1]
    assert not Path("studies").exists()


def test_a_study_resumes_without_the_data_option_since_it_knows_its_images(space: Path) -> None:
    """Also what a data file said about them; the space is compared with the study, as ever."""
    data = space.with_name("data.yaml")
    data.write_text("data: {path: xrays, classes: auto, positive: NORMAL}\n")
    space.write_text(SPACE.replace("path: xrays, ", "path: elsewhere, "))
    run(space, data=data)

    view = run(space, "budget.trials=2")

    assert view.counts == {"complete": 2}
    for changed in ("data.classes=binary", "data.image_size=64", "data.split.val_a=0.2"):
        with pytest.raises(StudyError, match="another space"):
            run(space, changed)


def test_a_study_keeps_the_folder_of_weights_unless_another_one_is_given(space: Path) -> None:
    """The same command without the option also works where weights cannot be downloaded."""
    first, moved = (space.with_name(name) for name in ("weights", "moved"))
    run(space, weights_dir=first)

    run(space)

    assert STUDY.space().settings.weights_dir == first
    run(space, weights_dir=moved)
    assert STUDY.space().settings.weights_dir == moved


@pytest.mark.parametrize("is_given", [False, True])
def test_a_study_keeps_the_classes_that_an_earlier_default_gave_it(
    space: Path, is_given: bool
) -> None:
    run(space, "data.classes=binary")

    view = run(space, "budget.trials=2", data=space.with_name("xrays") if is_given else None)

    assert view.counts == {"complete": 2}


def test_ratio_with_no_or_too_many_extra_images_is_refused_before_writing(space: Path) -> None:
    refused = (
        r"synthetic_ratio: 0.002, source: duplicate, \d+ training images: .* no extra image\n"
        r" +fix: write synthetic_ratio: 0\.\d+"
    )

    with pytest.raises(ConfigError, match=refused):
        run(
            space,
            "batch_size=512",
            "source={values: [none, duplicate]}",
            "synthetic_ratio={min: 0.002, max: 1.0}",
        )
    fixed = ["batch_size=512", "lr=1e-3", "source=duplicate", "synthetic_ratio=0.002"]
    with pytest.raises(ConfigError, match=refused):
        train(space, out=Path("model"), overrides=fixed, cache=Path("cache"))

    Path("extra/NORMAL").mkdir(parents=True)
    Image.new("L", (32, 32), 7).save("extra/NORMAL/one.png")
    with pytest.raises(DataError, match="only 1 image of NORMAL"):
        run(
            space,
            "source={values: [none, folder]}",
            "folder.path=extra",
            "synthetic_ratio=1.0",
        )

    assert not Path("studies").exists()
    assert not Path("model").exists()


def test_an_encoder_that_has_seen_the_data_set_is_noted(space: Path) -> None:
    save_backbone(Path("nih.safetensors"), "xrv_densenet121_nih")
    encoder = "backbone=xrv_densenet121_nih weights=nih.safetensors trainable=head input_size=32"
    notes = list[str]()

    run(space, *encoder.split(), "data.set=nih", note=notes.append)

    seen = "the encoder xrv_densenet121_nih was pretrained on images of nih (data.set)"
    assert f"{seen}: a verdict of `confirm` on it will be exploratory" in notes


def test_statistics_of_a_hospital_whose_classifier_is_at_chance_are_named_before_the_search(
    space: Path,
) -> None:
    """The other hospital calls ill what this one calls healthy."""
    save_backbone(Path("net.safetensors"))
    for name, seed in (("a", 1), ("b", 4)):
        paint_phantoms(Path(name), patients=120, seed=seed, image_size_px=32, difficulty=0.0)
    images = swap_classes(Path("b/train"))
    frozen = ["weights=net.safetensors", "trainable=head"]
    of_b = Path("b.yaml")
    of_b.write_text(SPACE.replace("max_epochs: 1, steps_per_epoch: 2", "max_epochs: 20"))
    sent = generator_train(
        of_b, out=Path("sent"), data=images, overrides=frozen, without_generator=True
    )
    notes = list[str]()

    statistics = ("source=statistics", f"statistics.path={sent.path}")
    run(space, *frozen, *statistics, "data.path=a", note=notes.append)

    assert any(note.startswith("sent: its classifier has AUROC 0.") for note in notes)


def test_a_lost_record_of_the_time_used_is_noted(space: Path) -> None:
    notes = list[str]()
    run(space)
    (STUDY.path / "wall.json").write_text('{"seconds')

    run(space, "budget.trials=2", "budget.hours=1", note=notes.append)

    assert any(note.startswith("wall.json is missing") for note in notes)
