"""Audit a folder of synthetic images against real ones: everything that xraytune measures, on one scorecard.

    read -> measure -> search -> confirm -> audit.json, audit.html

An audit is a study: its space compares no extra images, repeated real ones and those of the folder, and `search` and
`confirm` run it. Repeat the same call to resume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import join
from typing import Any

from xraytune.audit import scorecard
from xraytune.audit.space import Mix, audit_space, feasible_mix
from xraytune.compute import pin
from xraytune.config.fields import parameters_from
from xraytune.config.settings import Experiment
from xraytune.config.space import Space, require_extensions
from xraytune.confirm.run import OnForecast, confirm, ignore_forecast
from xraytune.confirm.scoring import find_test
from xraytune.data.index import ImageFile, content_fingerprint
from xraytune.errors import DataError
from xraytune.files import require_writable, write_json, write_text
from xraytune.generators.grids import png_bytes
from xraytune.metrics.generator_quality import Quality
from xraytune.metrics.memorisation import Memorisation
from xraytune.pipeline.artifacts import in_use
from xraytune.pipeline.extra_folder import usable_images
from xraytune.pipeline.memorisation import measure_memorisation
from xraytune.pipeline.pools import folder_reader
from xraytune.pipeline.prepare import Prepared, RunContext, prepare_index, require_unbroken, store_images, stored_images
from xraytune.pipeline.quality import measure_quality
from xraytune.pipeline.samples import class_samples, sample_grid
from xraytune.pipeline.task import task_of
from xraytune.records import to_json
from xraytune.report.page import render
from xraytune.report.sections import Picture, Score, Section, Table, sections
from xraytune.report.study import read_study
from xraytune.search.messages import NO_CALLBACKS, Callbacks
from xraytune.search.run import require_weights, resources_here, search
from xraytune.search.study import StudyFolder, create_study, require_same_images, require_same_space

AUDIT_FILE, PAGE_FILE = "audit.json", "audit.html"
_OF_THE_STUDY = ("verdict", "ratio", "data", "environment")
"""The sections of the study's report that the page includes."""
_TONES = {"bad": "bad", "warning": "plain"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """The measurements of the usable images: their quality, or why it was not measured; their memorisation by class."""

    quality: Quality | str
    memorisation: Mapping[str, Memorisation]
    pictures: tuple[Picture, ...]

    def sections(self) -> tuple[Section, ...]:
        """Return the sections of the page that show the measurements."""
        pictures = Section(id="images", title="Images", link="Images", pictures=self.pictures)
        if isinstance(found := self.quality, str):
            return (pictures,)
        figures = {
            name: {"KID": one.kid, "KID floor": one.floor, **asdict(one.full)}
            | {f"{figure}, blurred": value for figure, value in asdict(one.blurred).items()}
            for name, one in found.classes.items()
        }
        rows = [
            (figure, *(round(of_class[figure], 3) for of_class in figures.values()))
            for figure in next(iter(figures.values()))
        ]
        notes = [f"Compared with val-A in the features of {found.features}, at {found.resolution_px} px."]
        if found.gan_train is not None:
            notes.append(
                f"A linear classifier trained on these images has an AUROC of {found.gan_train:.3f} on val-A; one "
                f"trained on real images, {found.real_train:.3f}."
            )
        table = Table(columns=("figure", *figures), rows=rows)
        return pictures, Section(id="quality", title="Quality", link="Quality", notes=notes, tables=[table])


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit: the study's folder, with `audit.json` and `audit.html`, and what these show.

    `record` is the content of `audit.json`, with all figures; docs/audit.md describes its keys.
    """

    study: Path
    headline: str
    lines: tuple[Score, ...]
    record: Mapping[str, Any]


def audit(
    real: Path,
    synthetic: Path,
    *,
    model_space: Path | None = None,
    quick: bool = False,
    test: Path | None = None,
    weights_dir: Path | None = None,
    overrides: Sequence[str] = (),
    studies: Path = Path("studies"),
    cache: Path | None = None,
    address: str | None = None,
    skip_broken: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
    on_forecast: OnForecast = ignore_forecast,
) -> Audit:
    """Audit synthetic images, and write `audit.json` and `audit.html` to the study `studies/audit-FOLDER`.

    Args:
        real: Image folder or data file, with a `test/` folder unless `test` or `quick` is given.
        synthetic: Folder of synthetic images, in class folders named like the real ones.
        model_space: A space or experiment file that describes the classifier; by default a frozen MobileNetV2.
        quick: Skip everything that needs training or the test folder.
        test: Test images of other patients, if `real` has none.
        weights_dir: A folder of official weight files, for machines without a network.
        overrides: `key=value` lines that replace those of the file, such as `data.train_patients=200`.
        studies: The folder of studies.
        cache: The artifact cache; by default next to `studies`.
        address: A Ray cluster; by default Ray starts on this machine.
        skip_broken: Skip broken real images, with a note.
        callbacks: Called as the audit proceeds; the search reports its trials only as progress.
        on_forecast: See `confirm`.

    Raises:
        ConfigError: The space file or an override is invalid.
        DataError: A folder has no images, other classes or a broken image.
        MachineError: Weights, GPUs, disk space or the Ray cluster are missing.
        StudyError: The study is in use, or an earlier audit of this name had other settings or images.
        TrialError: Trials failed; repeat the same call to retry them.
        KeyboardInterrupt: Ctrl-C; repeat the same call to resume.
    """

    def space_of(mix: Mix) -> Space:
        return audit_space(real, synthetic, mix, model_space=model_space, overrides=overrides, weights_dir=weights_dir)

    draft, progress = space_of(Mix()), callbacks.on_progress
    settings, task = draft.settings, task_of(draft.settings)
    require_extensions(draft)
    folder = StudyFolder((studies / settings.name).resolve())
    cache = (cache or folder.default_cache).resolve()
    require_writable(folder.path)
    require_writable(cache)
    if not quick:
        require_weights(draft)
    index = task.read_index(settings.data, on_progress=progress)
    prepared, warnings = prepare_index(index, settings.data, cache, skip_broken=skip_broken, on_progress=progress)
    for warning in warnings:
        callbacks.note(warning)
    found = task.read_folder(synthetic, prepared.class_names)
    uses_test = test is not None and not quick
    if uses_test:
        find_test(settings, prepared, test, on_progress=progress)
    problem, usable = "", found
    try:
        usable = usable_images(found, synthetic, prepared, group_regex=settings.data.split.group_regex, index=index)
        if uses_test:
            find_test(settings, prepared, test, extra=[synthetic], on_progress=progress)
    except DataError as error:
        problem = error.problems[0].what
    mix = feasible_mix(usable, synthetic, prepared)
    why_not = mix.why
    if problem:
        why_not = "fix the problem above first"
    elif quick:
        why_not = "it needs training; run the command without --quick"
    elif mix.ratios and not index.test and test is None:
        why_not = "the real images have no test/ folder; give --test DIR"
    space = space_of(mix if mix.ratios else Mix())
    _, compute = resources_here(settings)
    if folder.space_path.exists():
        require_same_space(folder, space)
        prepared = require_same_images(folder, prepared)
    else:
        create_study(folder, space, prepared, compute)
    pin(compute)
    measured = None
    if not problem:
        with in_use(cache):
            context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=progress)
            measured = _measure(usable, synthetic, space, context)
    lines = _measured_lines(found, usable, measured, problem, prepared)
    command = ["xraytune", "audit", str(real), str(synthetic), *(f"--set={one}" for one in overrides)]
    command += [f"--model-space={model_space}"] * (model_space is not None) + ["--quick"] * quick
    command += [f"--test={test}"] * uses_test

    def written(why: str) -> Audit:
        data = read_study(folder.path, cache)
        last = (
            (scorecard.downstream_line(data.verdict),) if data.verdict else scorecard.not_measured(["downstream"], why)
        )
        every = (*lines, *last)
        record = {
            "version": 1,
            "study": settings.name,
            "headline": scorecard.headline(every),
            "lines": every,
            "synthetic": {
                "folder": synthetic.resolve().name,
                "images": Counter(prepared.class_names[image.label] for image in found),
                "usable": len(usable),
                "fingerprint": content_fingerprint(found),
            },
            "real": {
                "folder": index.root.resolve().name,
                "images": Counter(image.side for image in prepared.images),
                "patients": len({image.patient for image in prepared.images}),
                "fingerprint": prepared.fingerprint,
            },
            "mix": mix,
            "quality": measured.quality if measured else "not measured",
            "memorisation": measured.memorisation if measured else {},
            "verdict": data.verdict,
        }
        result = Audit(study=folder.path, headline=scorecard.headline(every), lines=every, record=to_json(record))
        write_json(folder.path / AUDIT_FILE, result.record)
        parts = [_scorecard(result, mix.balance, join(command)), *(measured.sections() if measured else ())]
        for section in sections(data):
            if section.id in _OF_THE_STUDY and (section.id != "verdict" or data.verdict):
                parts.append(replace(section, id=f"study-{section.id}"))
        write_text(folder.path / PAGE_FILE, render(data, parts), durable=False)
        return result

    result = written(why_not or "the audit was interrupted")
    if why_not:
        return result
    trials = Counter[str]()

    def on_trial_end(row: Mapping[str, Any]) -> None:
        trials[row["status"]] += 1
        progress("trials", trials.total(), space.settings.budget.trials)

    search(
        folder.space_path,
        weights_dir=weights_dir,
        studies=studies,
        cache=cache,
        address=address,
        skip_broken=skip_broken,
        callbacks=replace(callbacks, on_trial_end=on_trial_end),
    )
    confirm(
        folder.path,
        test=test,
        weights_dir=weights_dir,
        cache=cache,
        address=address,
        reason="audit",
        callbacks=callbacks,
        on_forecast=on_forecast,
    )
    return written("")


def _measured_lines(
    found: Sequence[ImageFile],
    usable: Sequence[ImageFile],
    measured: _Measured | None,
    problem: str,
    prepared: Prepared,
) -> tuple[Score, ...]:
    patients = scorecard.patients_line(len(found), len(usable), problem)
    if measured is None:
        return (patients, *scorecard.not_measured(("memorisation", *scorecard.OF_QUALITY), "see above"))
    trained_on = {image.sha256 for image in prepared.images if image.side == "train"}
    identical = sum(image.sha256 in trained_on for image in usable)
    memorisation = scorecard.memorisation_line(measured.memorisation, identical)
    if isinstance(measured.quality, str):
        return (patients, memorisation, *scorecard.not_measured(scorecard.OF_QUALITY, measured.quality))
    size_px = max(max(image.width_px, image.height_px) for image in usable)
    upscaled = f" Their files have at most {size_px} px and are upscaled to {prepared.image_size_px} px."
    lines = scorecard.quality_lines(measured.quality, upscaled if size_px < prepared.image_size_px else "")
    return (patients, memorisation, *lines)


def _scorecard(found: Audit, balance: str, command: str) -> Section:
    own, real = (found.record[name] for name in ("synthetic", "real"))
    statuses = {one.status for one in found.lines}
    counts = ", ".join(f"{count:,} {name}" for name, count in own["images"].items())
    notes = [
        f"{own['folder']}: {sum(own['images'].values()):,} images ({counts}), compared with "
        f"{sum(real['images'].values()):,} real ones of {real['patients']:,} patients in {real['folder']}."
    ]
    if balance == "equal":
        notes.append(
            "The folder cannot keep the real class shares, so each mix adds to the smaller class first (`balance: equal`)."
        )
    return Section(
        id="verdict",
        title="Audit",
        link="Scorecard",
        lead=found.headline,
        tone=next((tone for status, tone in _TONES.items() if status in statuses), "good"),
        notes=notes,
        scores=found.lines,
        commands=[command],
    )


def _measure(images: Sequence[ImageFile], synthetic: Path, space: Space, context: RunContext) -> _Measured:
    """Measure the usable images of a folder, in the order of `usable_images`.

    Raises DataError if one is broken, MachineError if the weights of `quality.backbone` are missing.
    """
    prepared, progress = context.prepared, context.on_progress
    size_px = prepared.image_size_px
    data = space.settings.data
    store = store_images(synthetic, images, data, cache=context.cache, on_progress=progress)
    require_unbroken(store, synthetic, "repair or remove them")
    read = folder_reader(stored_images(store, images, name="folder"))
    backbone, weights = space.networks()[0]
    parameters = parameters_from({"backbone": backbone, "weights": weights})
    quality = measure_quality(Experiment(settings=space.settings, parameters=parameters), context, read)
    memorisation, folder = measure_memorisation(context, read)
    samples = sample_grid(class_samples(read, context, size_px), title=synthetic.name, extra="images of the folder")
    beside = "Real training images next to the first images of the folder."
    pictures = [Picture(content=png_bytes(samples), caption=beside)]
    for name in memorisation:
        nearest = f"{name}: the images closest to a training image, each with that training image on its right."
        pictures.append(Picture(content=(folder / f"nearest_{name}.png").read_bytes(), caption=nearest))
    return _Measured(quality=quality, memorisation=memorisation, pictures=tuple(pictures))
