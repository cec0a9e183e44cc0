"""A GAN kept as a folder, and the images drawn from it."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.in_process import CPU, TINY_GAN, command
from tests.pair_files import draw_xrays
from tests.trial.conftest import Bench, block_of, make_bench
from xraytune.base.cores import cpu_count
from xraytune.base.errors import ArtifactError, ConfigError, DataError
from xraytune.base.files import read_json, write_json
from xraytune.data.prepare import RunContext, prepare
from xraytune.model.generator_folder import generator_sample, generator_train
from xraytune.nets.compute import compute_of
from xraytune.space.allocation import allocation_of
from xraytune.space.load import load_space
from xraytune.space.source_settings import GanSettings
from xraytune.study.start import read_inputs
from xraytune.synth.saved_generator import generate_block
from xraytune.synth.sources.gan import require_same_network, trained_generator
from xraytune.synth.sources.registry import seen_by
from xraytune.trial.preflight import prepare_space
from xraytune.trial.training_set import build_training_set

SPACE = """
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, gan]}
  gan:
    when: {source: gan}
    parameters:
      image_size: {value: 32}
      width: {value: 4}
      batch_size: {value: 4}
      steps: {values: [2, 3]}
  backbone: {value: small_cnn}
  weights: {value: none}
resources: {gpus_per_trial: 0}
points_to_evaluate: [{source: gan, gan.steps: 3}]  # `generator train` ignores them
"""


@pytest.fixture(scope="module")
def clinic_b(module_path: Path) -> Bench:
    """Other X-rays than those that the GAN was trained on."""
    return make_bench(module_path / "clinic_b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A trained GAN, with its space and cache."""

    space: Path
    cache: Path
    gan: Path


@pytest.fixture(scope="module")
def kept(module_path: Path) -> Kept:
    draw_xrays(module_path, patients=20, seed=3)
    kept = Kept(
        space=module_path / "space.yaml", cache=module_path / "cache", gan=module_path / "gan"
    )
    kept.space.write_text(SPACE)
    generator_train(kept.space, out=kept.gan, overrides=["gan.steps=2"], cache=kept.cache)
    return kept


def test_drawn_images_are_those_that_a_search_trains_on(kept: Kept, tmp_path: Path) -> None:
    """A smaller sample is the beginning of a larger one."""
    space = load_space(kept.space, ["gan.steps=2", "source=gan", "points_to_evaluate=[]"])
    prepared, _ = prepare(space.settings, kept.cache)

    for count in (5, 20):
        generator_sample(kept.gan, count=count, out=tmp_path / f"{count}")

    compute = compute_of(allocation_of(space.settings, has_gpu=False))
    context = RunContext(prepared=prepared, cache=kept.cache, compute=compute)
    for count in (5, 20):
        drawn = 0
        for label, name in enumerate(prepared.class_names):
            files = sorted((tmp_path / f"{count}" / name).iterdir())
            pool = block_of(space.experiment(), context, label).read(slice(len(files)))
            assert [np.asarray(Image.open(file)).tolist() for file in files] == pool.tolist()
            drawn += len(files)
        assert drawn == count


def test_a_generator_is_trained_on_all_cores_unless_a_search_has_trained_it(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    threads = []
    for steps in (2, 3):
        trained = generator_train(
            kept.space,
            out=tmp_path / f"{steps}",
            overrides=[f"gan.steps={steps}"],
            cache=kept.cache,
        )
        assert trained.generator is not None
        threads.append(trained.generator.compute.threads)

    assert threads == [CPU.threads, cpu_count()]


def test_a_generator_is_proposed_for_other_patients_than_its_own(
    kept: Kept, tmp_path: Path
) -> None:
    space = kept.space.with_name("binary.yaml")
    space.write_text(SPACE.replace("data: {", "data: {classes: binary, "))
    words = ["--space", space, "--cache", kept.cache, "--set", "gan.steps=2"]

    shown = command("generator", "train", "-o", tmp_path / "gan", *words).stdout

    (proposed,) = (line for line in shown.splitlines() if line.startswith("next"))
    assert "other patients" in proposed
    assert "--data OTHER_XRAYS" in proposed
    assert f"generator.path={tmp_path}/gan" in proposed
    assert "data.classes=binary" in proposed, "as in the file"
    assert "labels=class" in proposed, "it has no classifier"


def test_a_saved_generator_is_a_source_whose_blocks_are_those_of_generator_sample(
    kept: Kept, clinic_b: Bench, tmp_path: Path
) -> None:
    """With the seed of the study, not the generator's, so each replicate gets other images."""
    seed = read_json(kept.gan / "generator.json")["settings"]["seed"]
    settings = clinic_b.settings.model_copy(update={"seed": seed})
    given = {"source": "generator", "generator": {"path": kept.gan}, "synthetic_ratio": 0.5}
    experiment = replace(clinic_b, settings=settings).ungated.experiment(**given)

    training_set = build_training_set(experiment, clinic_b.context)

    generator_sample(kept.gan, count=6, out=tmp_path / "drawn")
    drawn = [
        np.asarray(Image.open(file)).tolist()
        for file in sorted((tmp_path / "drawn/PNEUMONIA").iterdir())
    ]
    (block,) = (source for source in training_set.image_sets[1:] if source.labels[0] == 1)
    assert block.read(slice(len(drawn))).tolist() == drawn != []
    assert len(training_set.extra) == round(0.5 * len(training_set.real))


def test_a_generator_of_findings_draws_those_of_a_study_in_its_own_order(
    findings_bench: Bench, tmp_path: Path
) -> None:
    """As a start for other findings, it is refused."""
    xrays = findings_bench.settings.data.path
    out = tmp_path / "gan"
    table = (
        (xrays / "data.yaml")
        .read_text()
        .replace("[lobar, diffuse, effusion]", "[effusion, lobar, diffuse]")
    )
    (xrays / "others.yaml").write_text(table)
    generator_train(
        xrays.parent / "space.yaml",
        data=xrays / "others.yaml",
        overrides=TINY_GAN,
        out=out,
        cache=tmp_path / "cache",
    )

    read_inputs(
        {("generator.path", str(out))},
        findings_bench.settings,
        findings_bench.prepared,
        findings_bench.cache,
    )
    experiment = findings_bench.experiment(source="generator", generator={"path": out})
    block = block_of(experiment, findings_bench.context)

    drawn = generate_block(
        out / "generator.safetensors",
        0,
        0,
        seed=findings_bench.settings.seed,
        compute=CPU,
        findings=block.targets[:, [2, 0, 1]],
    )
    assert np.array_equal(block.read(), drawn[:, 0])
    with pytest.raises(DataError, match="are of lobar, diffuse, effusion"):
        read_inputs(
            {("gan.start_from", str(out))},
            findings_bench.settings,
            findings_bench.prepared,
            tmp_path,
        )


def test_images_with_findings_are_drawn_with_a_table_of_them(
    findings_bench: Bench, tmp_path: Path
) -> None:
    """The findings are those of training images, unknown ones too; the folder is a source.

    As with any folder, its record of the patients that the generator has seen must not change.
    """
    xrays = findings_bench.settings.data.path
    train = findings_bench.prepared.side("train").targets
    cache = tmp_path / "cache"
    generator_train(
        xrays.parent / "space.yaml",
        data=xrays / "data.yaml",
        overrides=TINY_GAN,
        out=tmp_path / "gan",
        cache=cache,
    )
    for count in (len(train), 4):
        generator_sample(tmp_path / "gan", count=count, out=tmp_path / f"{count}")
    folder = {"path": tmp_path / f"{len(train)}/data.yaml"}
    experiment = findings_bench.ungated.experiment(
        source="folder", synthetic_ratio=1.0, folder=folder
    )
    chosen = build_training_set(experiment, findings_bench.context)
    drawn = chosen.targets[chosen.extra]
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, train.tolist()))
    seen = read_json(tmp_path / "gan/generator.json")["train_images"]
    assert seen_by([experiment.parameters]) == {*seen}
    inputs = {("folder.path", str(folder["path"]))}
    prepared = findings_bench.prepared
    before = read_inputs(inputs, findings_bench.settings, prepared, cache)
    write_json(tmp_path / f"{len(train)}/provenance.json", {"train_images": []})
    assert read_inputs(inputs, findings_bench.settings, prepared, cache) != before
    few = (tmp_path / "4/labels.csv").read_text()
    many = (tmp_path / f"{len(train)}/labels.csv").read_text()
    assert many.startswith(few)
    assert len(few.splitlines()) == 5


def test_what_a_saved_generator_lacks_is_said_before_a_search(
    kept: Kept, clinic_b: Bench, tmp_path: Path
) -> None:
    prepared = clinic_b.prepared
    for given, folder, error, what in (
        (
            replace(prepared, class_names=("NORMAL", "TB")),
            kept.gan,
            DataError,
            "makes images of NORMAL, PNEUMONIA, but the study's are of NORMAL, TB",
        ),
        (replace(prepared, has_masks=True), kept.gan, DataError, "PNEUMONIA, with masks"),
        (prepared, tmp_path, ArtifactError, r"there is no generator\.json here"),
    ):
        inputs = {("generator.path", str(folder))}
        with pytest.raises(error, match=what):
            read_inputs(inputs, clinic_b.settings, given, clinic_b.cache)


def test_patients_that_a_saved_generator_has_seen_are_not_validated_on(kept: Kept) -> None:
    """In a study of the same X-rays with another split."""
    at = [
        "data.split.seed=1",
        "source=generator",
        f"generator.path={kept.gan}",
        "points_to_evaluate=[]",
    ]
    space = load_space(kept.space, at)
    notes = list[str]()
    learnt = {*read_json(kept.gan / "generator.json")["train_images"]}

    prepared, _ = prepare_space(space, kept.cache, note=notes.append)

    before, _ = prepare(space.settings, kept.cache)
    assert learnt & {image.sha256 for image in before.images if image.side != "train"}
    assert not learnt & {image.sha256 for image in prepared.images if image.side != "train"}
    count = f"have seen {len(learnt)} images, {len(learnt)} of them of this study"
    assert any(count in note for note in notes)


def test_training_starts_from_a_saved_generator(kept: Kept, clinic_b: Bench) -> None:
    """Without a step, codes of the study's own images are decoded by the same network."""
    for steps in (0, 2):
        gan = {"image_size": 32, "width": 4, "batch_size": 4, "start_from": kept.gan}
        settings = GanSettings.model_validate({**gan, "steps": steps})
        trained = trained_generator(settings, clinic_b.context)
        saved = load_file(kept.gan / "generator.safetensors")
        started = load_file(trained / "generator.safetensors")
        network = [name for name in saved if not name.startswith("prior.")]
        assert all(torch.equal(saved[name], started[name]) for name in network) == (steps == 0)
        assert torch.equal(saved["prior.axes"], started["prior.axes"])
        assert len(started["prior.codes"]) == sum(clinic_b.prepared.train_counts)
    other = settings.model_copy(update={"width": 8})
    with pytest.raises(ArtifactError, match="this generator has a different network"):
        trained_generator(other, clinic_b.context)
    with pytest.raises(ConfigError, match=r"fix: write gan\.width: 4"):
        require_same_network(other)
    features = settings.model_copy(update={"features": Path("mobilenet.pth")})
    with pytest.raises(ConfigError, match=r"fix: write gan\.features: null"):
        require_same_network(features)


def test_a_record_cannot_name_outside_files(kept: Kept, tmp_path: Path) -> None:
    gan = Path(shutil.copytree(kept.gan, tmp_path / "gan"))
    record = read_json(gan / "generator.json")
    record["class_counts"]["../outside"] = 7
    write_json(gan / "generator.json", record)

    with pytest.raises(ArtifactError, match=r"generator\.json"):
        generator_sample(gan, count=9, out=tmp_path / "images")
