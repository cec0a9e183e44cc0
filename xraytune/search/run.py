"""Search a space over a folder of X-rays. The same call again resumes the search."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from xraytune.base.errors import Problem, StudyError, TrialError, counted
from xraytune.base.files import StrPath, optional_path, require_writable, write_text
from xraytune.base.records import Compute
from xraytune.data.draws import fewest_scored, too_few_outside, too_few_unused
from xraytune.data.first_space import open_first_space
from xraytune.data.images import ImageIndex
from xraytune.data.prepare import RunContext, SplitData, patients_seen, restore_pixels
from xraytune.data.sides import FEWEST_TESTED, chance_warning, side_sizes, too_few_tested
from xraytune.nets.compute import (
    choose_compute,
    compute_of,
    gpu_count,
    require_device,
    require_room,
)
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.search.trials import SearchTrials
from xraytune.space.allocation import Allocation, allocation_of
from xraytune.space.cost import Work
from xraytune.space.encoders import describe_seen
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.load import with_data_options
from xraytune.space.parameters import Parameters
from xraytune.space.recorded import require_same_code
from xraytune.space.settings import Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.journal import Journal, random_parameters
from xraytune.study.row import reasons_of
from xraytune.study.samplers import require_sampler
from xraytune.study.start import (
    continue_under_releases,
    create_study,
    inputs_of_space,
    read_inputs,
    require_free,
    require_same_images,
    require_same_inputs,
    with_recorded_images,
)
from xraytune.study.status import StudyView, StudyWatcher
from xraytune.synth.generator_inputs import lineage_to_train
from xraytune.synth.sources.registry import mixes_of, seen_by
from xraytune.trial.preflight import open_space, prepare_space, require_inputs
from xraytune.trial.soft_labels import donor_mixes, misfit_warnings

_MOST_SAMPLED = 200


def search(
    space: StrPath | None = None,
    *,
    data: StrPath | None = None,
    classes: str | None = None,
    group_regex: str | None = None,
    weights_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    studies: StrPath = Path("studies"),
    cache: StrPath | None = None,
    address: str | None = None,
    skip_broken: bool = False,
    extensions: Sequence[str | type] = (),
    callbacks: Callbacks = NO_CALLBACKS,
) -> StudyView:
    """Search the space of a file, and return the study.

    Quick checks come before slow work, and no study is created before everything is checked:

    1. The space, since the study has its name.
    2. The study, if an earlier start created it: it is locked at once, so that a second search is
       refused before it does any work.
    3. What can be checked without reading an image, before work that takes minutes.
    4. Ray, which takes seconds to start, so that a new search starts it while the images are read.
       A resumed search starts it for its first trial, since it may have nothing left to do. On a
       cluster, Ray also says what trials compute on.
    5. The images, and what the user should know about them while there is no study yet.
    6. The other inputs, which depend on the images: there must be enough extra images, and none of
       the sealed test patients.
    7. The study. Everything is valid now, so a new one is created, as a whole. The lock is one of
       its files, so another search may just have created this study, or another one with this name.
       Then some settings may differ from those of the last start; they are written, since all other
       commands read them in the study.
    8. The trials.

    Args:
        space: The YAML file of the space. By default, it is NAME.yaml in the current folder for
            `data` with this name; the file is written if it does not exist.
        data: A data folder or a data file (YAML), which overrides `data` of the space. To resume a
            study, it need not be given: the study knows its images.
        classes: Overrides `data.classes` of the space.
        group_regex: Overrides `data.split.group_regex` of the space.
        weights_dir: A folder of official weight files, for machines without a network.
        overrides: `key=value` settings that override those of the space.
        studies: The folder of studies; the study is `studies/NAME`.
        cache: The artifact cache; by default next to the resolved path of `studies`.
        address: A Ray cluster; by default Ray starts on this machine.
        skip_broken: Skip broken images, with a note.
        extensions: Your own code that the space names: `FILE.py:CLASS`, or the class itself.
        callbacks: Called as the search proceeds.

    Raises:
        ConfigError: The file is invalid.
        DataError: The images cannot be used.
        MachineError: Weights, GPUs, disk space or the Ray cluster are missing.
        StudyError: The study is in use, or has another space, other images or other weights.
        TrialError: No trial completed.
        KeyboardInterrupt: Ctrl-C, after a clean shutdown.
    """
    data = optional_path(data)
    note = callbacks.note
    overrides = with_data_options(overrides, classes, group_regex)
    # 1. The space
    EXTENSIONS.register(extensions)
    file = space or open_first_space(
        data,
        overrides,
        has_gpu=gpu_count() > 0,
        note=note,
        on_progress=callbacks.on_progress,
    )
    loaded_space = open_space(file, overrides, data=data, weights_dir=weights_dir, note=note)
    require_sampler(loaded_space.settings.sampler)
    study_folder = StudyFolder(Path(studies, loaded_space.settings.name).resolve())
    cache = Path(cache or study_folder.default_cache).resolve()
    require_writable(study_folder.path)
    require_free(study_folder)
    is_resumed = study_folder.space_path.exists()
    with ExitStack() as stack:
        # 2. The study of an earlier start
        if is_resumed:
            loaded_space = _require_same_study(study_folder, loaded_space, data, address)
            stack.enter_context(locked(study_folder))
            require_same_code(study_folder.path)

        # 3. What can be checked without reading an image
        settings = loaded_space.settings
        inputs = inputs_of_space(loaded_space)
        require_inputs(settings, loaded_space.networks(), inputs)

        # 4. Ray
        runner = Runner(study_folder, cache=cache, address=address, callbacks=callbacks)
        stack.enter_context(closing(runner))
        machine = _choose_machine(runner, settings, is_resumed=is_resumed)

        # 5. The images
        prepared, index = _prepare_images(
            loaded_space, runner, is_resumed=is_resumed, skip_broken=skip_broken
        )

        # 6. The other inputs
        contents = read_inputs(
            inputs, settings, prepared, cache, index=index, mixes=mixes_of(loaded_space)
        )

        # 7. The study
        if not is_resumed:
            _warn_of_misfits(loaded_space, prepared, runner)
            create_study(study_folder, loaded_space, prepared, machine, contents)
            stack.enter_context(locked(study_folder))
            loaded_space = _require_same_study(study_folder, loaded_space, data, address)
        prepared = require_same_images(study_folder, prepared)
        require_same_inputs(study_folder, contents)
        write_text(study_folder.space_path, loaded_space.to_yaml(study_folder.path))

        # 8. The trials
        restore_pixels(settings, prepared, cache, on_progress=callbacks.on_progress)
        _run_trials(study_folder, loaded_space, prepared, runner)
    view = StudyWatcher(study_folder).refresh()
    if view.best is None:
        raise TrialError(
            f"no trial completed{reasons_of(view.trials)}",
            study_folder.path,
            "see trials.jsonl and trials/*/error.txt in the study",
        )
    return view


def _require_same_study(
    study_folder: StudyFolder, space: Space, data: Path | None, address: str | None
) -> Space:
    """Refuse (StudyError) to resume a study with another space, or where results would differ.

    Returns the space. If no `data` are given and the images of the space are gone, it has the
    images that the study recorded.
    """
    if data is None or data.exists():
        space = with_recorded_images(study_folder, space)
    Journal(study_folder.journal_path, space, is_writable=False)  # it refuses another space
    compute = study_folder.compute()
    if address is None:
        require_device(compute, study_folder.path)
    cpus = space.settings.resources.cpus_per_trial
    if cpus != compute.threads:
        raise StudyError(
            f"resources.cpus_per_trial: {cpus}, but trials of this study compute in "
            f"{counted(compute.threads, 'thread')}, on whose number their results depend",
            study_folder.path,
            f"write resources.cpus_per_trial: {compute.threads}, or give the study another name",
        )
    return space


def _choose_machine(
    runner: Runner, settings: Settings, *, is_resumed: bool
) -> Compute | Mapping[str, Any]:
    """Set what the trials of a runner hold, and return what they compute on.

    A new search on this machine launches the runner.
    """
    if is_resumed:
        compute = runner.study_folder.compute()
        runner.allocation = allocation_of(settings, has_gpu=compute.device == "cuda")
        return compute
    if runner.address:
        return runner.survey(settings)
    runner.allocation, compute = resources_here(settings)
    runner.launch()
    return compute


def _prepare_images(
    space: Space, runner: Runner, *, is_resumed: bool, skip_broken: bool
) -> tuple[SplitData, ImageIndex]:
    """Prepare the images, while Ray starts, and note what the user should know about them."""
    callbacks = runner.callbacks
    prepared, index = prepare_space(
        space,
        runner.cache,
        recorded=runner.study_folder.prepared() if is_resumed else None,
        skip_broken=skip_broken,
        note=callbacks.note,
        on_progress=callbacks.on_progress,
        on_index=(lambda: None) if is_resumed else runner.start,
    )
    for text in _notes(space, prepared, index):
        callbacks.note(text)
    if not is_resumed:
        callbacks.on_prepared(space, prepared, index, runner.cache)
    return prepared, index


def _warn_of_misfits(space: Space, prepared: SplitData, runner: Runner) -> None:
    """Note each donor whose classifier is at chance on the training images."""
    compute = choose_compute(gpus=0, threads=1)
    context = RunContext(prepared=prepared, cache=runner.cache, compute=compute)
    for warning in misfit_warnings(donor_mixes(space), space.settings, context):
        runner.callbacks.note(warning)


def resources_here(settings: Settings) -> tuple[Allocation, Compute]:
    """Return the resources of trials on this machine, and what they compute on.

    Raises:
        MachineError: A trial needs more than this machine has.
    """
    allocation = allocation_of(settings, has_gpu=gpu_count() > 0)
    compute = compute_of(allocation)
    require_room(allocation)
    return allocation, compute


def _run_trials(
    study_folder: StudyFolder, space: Space, prepared: SplitData, runner: Runner
) -> None:
    """Run the trials that are left, or say why there are none."""
    note = runner.callbacks.note
    compute = study_folder.compute()
    find_lineage = partial(lineage_to_train, prepared=prepared, compute=compute, cache=runner.cache)
    make_loop = partial(SearchTrials, study_folder, space, find_lineage)
    loop = make_loop()
    if study_folder.seconds() == 0 and loop.journal.rows():
        note("wall.json is missing or damaged: the time used, also of budget.hours, counts from 0")
    if loop.is_done:
        part = loop.used_up
        count = loop.journal.count
        is_whole_grid = part == "trials" and count < space.settings.budget.trials
        hint = "add values to the grid" if is_whole_grid else f"raise it with --set budget.{part}=N"
        note(f"budget.{part} is used up after {counted(count, 'trial')}; to continue, {hint}")
        return
    if change := continue_under_releases(study_folder):
        note(change)
    runner.run(make_loop)


def _notes(space: Space, prepared: SplitData, index: ImageIndex) -> Iterator[str]:
    """Yield the size of each side, and problems of a search's design or of its confirmation."""
    sizes = side_sizes(prepared)
    settings = space.settings
    for size in sizes:
        yield f"{size.name}: {size.image_count:,} images of {size.patient_count:,} patients"
    yield from filter(None, (chance_warning(sizes), settings.idle_asha))
    for name in space.extensions():
        yield f"extension {EXTENSIONS.declared[name]}"
    networks = [(trial.backbone, trial.weights) for trial in space.networks()]
    for note in describe_seen(networks, settings.data.set):
        yield f"{note} (data.set): a verdict of `confirm` on it will be exploratory"
    points = len(space.points())
    trials = settings.budget.trials
    if points > trials:
        list_name = "grid" if settings.sampler.name == "grid" else "list of first trials"
        yield (
            f"the {list_name} has {points:,} points, of which the first {trials:,} (budget.trials) "
            "are evaluated, in order"
        )
    sources = {trial.source for trial in space.extreme_parameters("source")}
    if "none" not in sources:
        yield (
            "no trial is of real images alone, which other arms could be compared with: the space "
            "has no point with source: none"
        )
    shortage = too_few_tested(index.test, index.outputs)
    if index.test and shortage:
        yield f"`confirm` cannot score test/: {shortage}"
    if settings.confirm.test != "folder" and (settings.data.train_patients or shortage):
        problem = _unused_problem(space, prepared, index)
        if problem:
            yield f"`confirm` cannot score unused patients: {problem.what}; {problem.fix}"


def _unused_problem(space: Space, prepared: SplitData, index: ImageIndex) -> Problem | None:
    """Return why `confirm` cannot train on some unused patients and score others, if so."""
    settings = space.settings
    used_patients = {image.patient for image in prepared.images}
    used_patients |= patients_seen(index.images, seen_by(mixes_of(space)))
    unused_patients = {image.patient for image in index.images} - used_patients
    size = prepared.train_patient_count
    class_count = len(index.class_names)
    if settings.confirm.leave_out != "site":
        can_score_folder = not too_few_tested(index.test, index.outputs)
        fewest_tested = fewest_scored(settings, class_count, can_score_folder=can_score_folder)
        return too_few_outside(len(unused_patients), size, fewest_tested=fewest_tested)
    sites = len(index.images.sites)
    return too_few_unused(
        len(unused_patients),
        size,
        replicates=sites,
        fewest_tested=sites * FEWEST_TESTED * class_count,  # of each site, of each class
        is_fixed=True,
    )


def expected_trials(space: Space) -> list[Parameters]:
    """Return as many random trials as the search will have; its sampler may suggest others.

    If there are many trials, only some of them are sampled, and then repeated.
    """
    count = space.trial_budget()
    sample = [*islice(random_parameters(space, space.settings.seed), min(count, _MOST_SAMPLED))]
    return [*islice(cycle(sample), count)]


def search_work(space: Space, prepared: SplitData) -> Work:
    """Return the trainings of a search."""
    return Work(
        settings=space.settings,
        trainings=expected_trials(space),
        train_images=sum(prepared.train_counts),
        epoch_steps=prepared.steps_per_epoch(space.settings),
        held_out_images=len(prepared.side("val_a")) + len(prepared.side("val_b")),
    )
