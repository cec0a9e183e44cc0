"""The study folder: one process at a time, one space, one set of images."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests.study.studies import CPU, direct, new_study, two_images
from xraytune.base.errors import MachineError, StudyError
from xraytune.base.files import read_json, write_json
from xraytune.base.locks import build_lock
from xraytune.search.run import search
from xraytune.study.folder import StudyFolder, locked, work_on
from xraytune.study.start import continue_under_releases, require_same_images

pytestmark = pytest.mark.slow


def test_images_that_changed_are_refused(study: StudyFolder) -> None:
    prepared = study.prepared()
    first, second, *others = prepared.images
    changed = replace(first, sha256="0" * 64)
    new = replace(second, file="train/NORMAL/new.jpeg", sha256="1" * 64)

    require_same_images(study, two_images())
    with pytest.raises(StudyError, match="the images changed") as refusal:
        require_same_images(study, replace(prepared, images=(changed, new, *others)))

    assert f"2 changed or gone: {first.file}, {second.file}" in str(refusal.value)
    with pytest.raises(StudyError, match=f"1 new: {new.file}"):
        require_same_images(study, replace(prepared, images=(*prepared.images, new)))


def search_again(study: StudyFolder, *overrides: str) -> None:
    """Search the space again, with images that are not there."""
    studies = study.path.parent
    root = studies.parent
    search(root / "small.yaml", overrides=overrides, data=root / "nowhere", studies=studies)


@pytest.mark.parametrize("work", ["searched", "confirmed"])
def test_second_search_is_refused_with_the_owner(
    study: StudyFolder, work: Literal["searched", "confirmed"]
) -> None:
    with locked(study, work):
        assert work_on(study) == work
        with (
            pytest.raises(StudyError, match=rf"is being {work} by process \d+ on .*, since"),
            locked(study),
        ):
            pass

    assert work_on(study) == ""
    with locked(study):
        pass


def test_waiting_for_the_ray_of_a_killed_search_is_said(
    study: StudyFolder, waited_for: tuple[ExitStack, list[str]]
) -> None:
    ray, messages = waited_for
    ray.enter_context(build_lock(study.driver_lock_path))
    with locked(study):
        pass

    (message,) = messages
    assert message.startswith(f"{study.path}: waiting for Ray's process")


def test_a_second_search_is_refused_before_it_looks_at_the_images(study: StudyFolder) -> None:
    with locked(study), pytest.raises(StudyError, match=r"searched by process"):
        search_again(study)


def test_gpu_study_resumes_only_on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it reads the images; on a CPU its trials would have other numbers."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    study = new_study(tmp_path, compute=replace(CPU, device="cuda"))

    with pytest.raises(MachineError, match="searched on a GPU"):
        search_again(study)


def test_a_study_resumes_only_with_the_threads_of_its_trials(study: StudyFolder) -> None:
    """Before it reads the images; with others, its trials would have other numbers."""
    refused = "cpus_per_trial: 2, but .* 1 thread"
    with pytest.raises(StudyError, match=rf"{refused}(.|\n)*write resources.cpus_per_trial: 1"):
        search_again(study, "resources.cpus_per_trial=2")


def begun_with(study: StudyFolder, **packages: str) -> None:
    """Record other versions as those that the study began with."""
    content = read_json(study.path / "environment.json")
    content["packages"] |= packages
    write_json(study.path / "environment.json", content)


def test_continuing_with_another_torch_is_reported_once_and_no_trial_is_trained_with_both(
    study: StudyFolder,
) -> None:
    """An unfinished trial starts again."""
    installed = study.releases()[0]
    checkpoint = study.trial_path(0) / "checkpoint/checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"of torch 2.0.1")
    assert continue_under_releases(study) == ""
    assert checkpoint.exists()
    begun_with(study, torch="2.0.1")

    told = continue_under_releases(study)

    assert f"trained with torch 2.0.1 and torchvision {installed['torchvision']}, but torch" in told
    assert study.releases() == (installed | {"torch": "2.0.1"}, installed)
    assert not checkpoint.exists()
    assert continue_under_releases(study) == ""


def test_another_build_of_the_same_release_is_the_same_version(study: StudyFolder) -> None:
    """As on a head node without a GPU, next to GPU nodes."""
    begun_with(study, torch=study.releases()[0]["torch"] + "+cpu")

    assert continue_under_releases(study) == ""


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": 5', '{"seconds": "x"}', "\x00\x00"])
def test_a_damaged_record_of_the_time_used_is_written_again(
    study: StudyFolder, content: str
) -> None:
    study.wall_path.write_text(content)

    direct(study).save_seconds()

    assert 0 <= read_json(study.wall_path)["seconds"] < 600
