"""A search before its first trial, and without any."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.in_process import command, confirm_in_process, save_backbone, search_in_process
from tests.pair_files import draw_xrays
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
from xraytune.study.status import status

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


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Path]:
    """A space file next to its X-rays, whose trials run in this process."""
    draw_xrays(tmp_path, patients=24)
    path = tmp_path / "small.yaml"
    path.write_text(SPACE)
    with confirm_in_process():
        yield path


def run(space: Path, *overrides: str, **callbacks: Any) -> None:
    search(
        space,
        studies=space.parent / "studies",
        overrides=overrides,
        callbacks=Callbacks(**callbacks),
    )


def test_concurrently_created_study_is_not_continued(space: Path) -> None:
    root = space.parent

    def search_another(*_: object) -> None:
        if not (root / "studies").exists():
            search_in_process(load_space(space, ["batch_size=4"]), root)

    with pytest.raises(StudyError, match="another space"):
        run(space, "budget.trials=2", on_progress=search_another)

    (row,) = read_jsonl(root / "studies/small/trials.jsonl")
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

    view = status(space.parent / "studies/small")
    assert (view.trial_budget, view.seconds_budget) == (2, 1800.0)


def test_a_new_search_says_first_what_its_verdict_could_tell_and_how_long_it_takes(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when it resumes."""
    monkeypatch.chdir(space.parent)

    first, again = (command("search", "--space", space).stderr for _ in range(2))

    assert "plan: the width of the verdict's interval" in first
    assert "expect about a minute of search" in first
    assert "plan: " not in again


def test_settings_that_change_no_trial_are_those_of_the_last_start(space: Path) -> None:
    """Also if the budget is used up. Other commands read them from the study."""
    study = StudyFolder(space.parent / "studies/small")
    run(space)

    run(space, "final.max_epochs=3", "resources.concurrent=7")
    settings = study.space().settings

    assert settings.final is not None
    assert (settings.final.max_epochs, settings.resources.concurrent) == (3, 7)
    with pytest.raises(StudyError, match=r"another space(.|\n)*replicates: 9"):
        run(space, "confirm.replicates=9")
    with pytest.raises(ConfigError, match=r"gan\.steps: no trial"):
        run(space, "gan.steps=9")


def test_a_resumed_search_holds_the_lock_of_its_study_while_it_reads_the_images(
    space: Path,
) -> None:
    study = StudyFolder(space.parent / "studies/small")
    works = list[str]()
    run(space)

    run(space, note=lambda text: works.append(work_on(study) if "train: " in text else ""))

    assert "searched" in works


def test_what_will_be_wrong_later_is_noted_before_the_study_is_created(space: Path) -> None:
    """Small learning rates that are hardly ever drawn, and a test folder that is too small."""
    notes = list[str]()
    for file in sorted((space.parent / "xrays/test/NORMAL").iterdir())[1:]:
        file.unlink()

    def note(text: str) -> None:
        notes.append(text)
        if text.startswith("`confirm` cannot score test/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(space, "lr={min: 1e-5, max: 1e-1}", note=note)

    assert "is drawn uniformly" in notes[1]
    assert "too few test patients: NORMAL 1" in notes[-1]
    assert not (space.parent / "studies").exists()


def test_a_study_resumes_without_the_data_option_since_it_knows_its_images(space: Path) -> None:
    """Also what a data file said about them; the space is compared with the study, as ever."""
    root = space.parent
    studies = space.parent / "studies"
    (root / "data.yaml").write_text("data: {path: xrays, classes: auto, positive: NORMAL}\n")
    space.write_text(SPACE.replace("path: xrays, ", "path: elsewhere, "))
    search(space, data=root / "data.yaml", studies=studies)

    view = search(space, studies=studies, overrides=["budget.trials=2"])

    assert view.counts == {"complete": 2}
    for changed in ("data.classes=binary", "data.image_size=64", "data.split.val_a=0.2"):
        with pytest.raises(StudyError, match="another space"):
            search(space, studies=studies, overrides=[changed])


def test_a_study_keeps_the_folder_of_weights_unless_another_one_is_given(space: Path) -> None:
    """The same command without the option also works where weights cannot be downloaded."""
    study = StudyFolder(space.parent / "studies/small")
    folders = [space.parent / "weights", space.parent / "moved"]
    search(space, studies=study.path.parent, weights_dir=folders[0])

    run(space)

    assert study.space().settings.weights_dir == folders[0]
    search(space, studies=study.path.parent, weights_dir=folders[1])
    assert study.space().settings.weights_dir == folders[1]


@pytest.mark.parametrize("is_given", [False, True])
def test_a_study_keeps_the_classes_that_an_earlier_default_gave_it(
    space: Path, is_given: bool
) -> None:
    data = space.parent / "xrays"
    search(space, studies=space.parent / "studies", overrides=["data.classes=binary"])

    view = search(
        space,
        data=data if is_given else None,
        studies=space.parent / "studies",
        overrides=["budget.trials=2"],
    )

    assert view.counts == {"complete": 2}


def test_ratio_with_no_or_too_many_extra_images_is_refused_before_writing(space: Path) -> None:
    root = space.parent
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
        train(space, out=root / "model", overrides=fixed, cache=root / "cache")

    (root / "extra/NORMAL").mkdir(parents=True)
    Image.new("L", (32, 32), 7).save(root / "extra/NORMAL/one.png")
    with pytest.raises(DataError, match="only 1 image of NORMAL"):
        run(
            space,
            "source={values: [none, folder]}",
            f"folder.path={root / 'extra'}",
            "synthetic_ratio=1.0",
        )

    assert not (root / "studies").exists()
    assert not (root / "model").exists()


def test_an_encoder_that_has_seen_the_data_set_is_noted(space: Path) -> None:
    file = space.parent / "nih.safetensors"
    save_backbone(file, "xrv_densenet121_nih")
    encoder = ("backbone=xrv_densenet121_nih", f"weights={file}", "trainable=head", "input_size=32")
    notes = list[str]()

    run(space, *encoder, "data.set=nih", note=notes.append)

    seen = "the encoder xrv_densenet121_nih was pretrained on images of nih (data.set)"
    assert f"{seen}: a verdict of `confirm` on it will be exploratory" in notes


def test_statistics_of_a_hospital_whose_classifier_is_at_chance_are_named_before_the_search(
    space: Path,
) -> None:
    """The other hospital calls ill what this one calls healthy."""
    root = space.parent
    save_backbone(root / "net.safetensors")
    for name, seed in (("a", 1), ("b", 4)):
        paint_phantoms(root / name, patients=120, seed=seed, image_size_px=32, difficulty=0.0)
    images = root / "b/train"
    (images / "NORMAL").rename(root / "healthy")
    (images / "PNEUMONIA").rename(images / "NORMAL")
    (root / "healthy").rename(images / "PNEUMONIA")
    frozen = [f"weights={root / 'net.safetensors'}", "trainable=head"]
    of_b = root / "b.yaml"
    of_b.write_text(SPACE.replace("max_epochs: 1, steps_per_epoch: 2", "max_epochs: 20"))
    sent = generator_train(
        of_b, out=root / "sent", data=images, overrides=frozen, without_generator=True
    )
    notes = list[str]()

    statistics = ("source=statistics", f"statistics.path={sent.path}")

    run(space, *frozen, *statistics, f"data.path={root / 'a'}", note=notes.append)

    assert any(note.startswith("sent: its classifier has AUROC 0.") for note in notes)


def test_a_lost_record_of_the_time_used_is_noted(space: Path) -> None:
    notes = list[str]()
    run(space)
    (space.parent / "studies/small/wall.json").write_text('{"seconds')

    run(space, "budget.trials=2", "budget.hours=1", note=notes.append)

    assert any(note.startswith("wall.json is missing") for note in notes)
