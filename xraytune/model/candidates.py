"""The settings that a final model is chosen from, with their images: all is checked, none trained.

The first candidate has the settings of a file, or of the trial that `export` chooses in a study;
the second, if there are other settings under `final`, has those.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xraytune.base.errors import MachineError
from xraytune.base.files import StrPath, write_text
from xraytune.base.records import Compute, Note, Progress, frozen, ignore_note
from xraytune.data.pixels import stored_files
from xraytune.data.prepare import SplitData, patients_seen
from xraytune.model.export import describe_benefit, export
from xraytune.model.folds import leave_out, with_all_on_train
from xraytune.nets.compute import compute_alone, compute_here, gpu_count, require_precision
from xraytune.space.fields import PARAMETERS, flat_values, parameters_from
from xraytune.space.load import SEARCH_ONLY, experiment_to_yaml, refuse_unused
from xraytune.space.parameters import identities_of
from xraytune.space.paths import PATHS
from xraytune.space.recorded import require_same_code
from xraytune.space.settings import Experiment, Settings
from xraytune.space.shipped import describe_space
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import inputs_of_trials, read_inputs, require_same_inputs
from xraytune.synth.sources.registry import mixes_of, seen_by
from xraytune.trial.preflight import open_space, prepare_space, require_inputs

CANDIDATES = ("the trial's settings", "the settings of final")


@frozen
class Candidate:
    """One of the settings that are compared.

    Attributes:
        folds: The images, once for each network.
        contents: Hashes of the contents of weights, extensions and other inputs.
        patients: The patient of each image of the folder that could be decoded, without `test/`.
        is_refit: Whether a single network is trained on all patients in the end. To find copies of
            a generator's training images, patients that it has not seen are kept aside.
        benefit: Whether the benefit of its synthetic images is confirmed, as a text.
    """

    experiment: Experiment
    folds: Sequence[SplitData]
    contents: Sequence[str]
    patients: Sequence[str]
    is_refit: bool
    benefit: str

    @property
    def final_images(self) -> SplitData:
        """The images, on the sides that the model is trained on in the end."""
        prepared = self.folds[0]
        uses_all = self.is_refit or len(self.folds) > 1
        return with_all_on_train(prepared) if uses_all else prepared

    def identity(self) -> dict[str, Any]:
        """Return everything that its networks depend on, besides this machine."""
        return {
            "experiment": self.experiment.identity(),
            "images": [fold.fingerprint for fold in self.folds],
            "steps_per_epoch": self.folds[0].steps_per_epoch(self.experiment.settings),
            "contents": self.contents,
            "extensions": identities_of(self.experiment.parameters),
        }


def open_candidates(
    config_or_study: Path,
    overrides: Sequence[str],
    *,
    data: StrPath | None,
    weights_dir: StrPath | None,
    note: Note,
) -> list[Space]:
    """Return the settings of a file, or of what `export` chooses in a study, and those of `final`.

    Each space has a single point. Overrides apply to both.
    """
    with TemporaryDirectory() as temporary:
        file = config_or_study
        if file.is_dir():
            exported = export(config_or_study, out=Path(temporary) / "best.yaml")
            file = exported.path
            note(exported.sentence)
            if exported.synthetic:
                note(f"the benefit of its synthetic images is {exported.synthetic}")
        else:
            note(describe_space(file))
        space = open_space(file, overrides, data=data, weights_dir=weights_dir)
        point = space.first_point()
        unused = (*SEARCH_ONLY, "resources.cpus_per_trial", *(PARAMETERS.keys() - point.keys()))
        refuse_unused(overrides, "train", unused)
        refuse_unused(overrides, "train", ("final",), "set the parameter itself, without `final.`")
        if space.searched:
            entry = f"the first entry of its points_to_evaluate: {space.points_to_evaluate[0]}"
            note(f"{config_or_study} is a search space: training {entry}")
        final = space.settings.final
        trial = replace(space, settings=space.settings.with_values({"final": None})).at(point)
        if final is None or is_exact(space.settings):
            return [trial]
        experiment = trial.experiment()
        values = flat_values(experiment.parameters)
        final_values = {name: value for name, value in final.values().items() if name in values}
        final_experiment = Experiment(
            settings=final.settings_of(experiment.settings),
            parameters=parameters_from(values | final_values),
        )
        final_file = Path(temporary) / "final.yaml"
        write_text(final_file, experiment_to_yaml(final_experiment, final_file.parent))
        changed = open_space(final_file, overrides, data=data, weights_dir=weights_dir)
    if changed.experiment().identity() == experiment.identity():
        return [trial]
    return [trial, changed.at(changed.first_point())]


def prepare_candidates(
    spaces: Sequence[Space],
    origin: StudyFolder | None,
    cache: Path,
    *,
    members: int,
    skip_broken: bool,
    note: Note,
    on_progress: Progress,
) -> Iterator[Candidate]:
    """Check the inputs of each candidate, and prepare its images and their folds.

    Problems of the images are noted once. Raises StudyError if the study `origin` began with other
    weights or extensions.
    """
    for space in spaces:
        experiment = space.experiment()
        settings = experiment.settings
        parameters = experiment.parameters
        if origin:
            require_same_code(origin.path, parameters.extensions)
        require_inputs(settings, [parameters])
        prepared, index = prepare_space(
            space,
            cache,
            recorded=origin.prepared() if origin else None,
            is_complete=False,
            skip_broken=skip_broken,
            note=note if space is spaces[0] else ignore_note,
            on_progress=on_progress,
        )
        folds = [prepared]
        is_refit = members == 1 and not (is_exact(settings) or parameters.has_synthetic_pixels)
        if members > 1 or is_refit:
            seen_patients = patients_seen(index.images, seen_by(mixes_of(space)))
            folds = leave_out(prepared, settings.data.split.seed, members, seen_patients)
        inputs = inputs_of_trials([parameters])
        if origin:
            fixed_inputs = {item for item in inputs if item[0] not in PATHS}
            recorded = read_inputs(fixed_inputs, settings, prepared, cache)
            require_same_inputs(origin, recorded, is_complete=False)
        contents = read_inputs(inputs, settings, prepared, cache, mixes=[parameters])
        decoded = {*stored_files(cache / prepared.pixels)[0]}
        benefit = ""
        if origin and settings.exported_from:
            benefit = describe_benefit(origin, settings.exported_from.trial, parameters)
        yield Candidate(
            experiment=experiment,
            folds=folds,
            contents=[*contents.values()],
            patients=[image.patient for image in index.images if image.file in decoded],
            is_refit=is_refit,
            benefit=benefit,
        )


def is_exact(settings: Settings) -> bool:
    """Return whether a training repeats its exported trial bit for bit."""
    return settings.exported_from is not None and settings.exported_from.images is None


def find_study(settings: Settings, note: Note) -> StudyFolder | None:
    """Return the study of the exported trial, if there is one and it is here."""
    origin = settings.exported_from
    if origin is None:
        return None
    study_folder = StudyFolder(origin.study)
    if study_folder.space_path.is_file():
        return study_folder
    note(f"the study of the exported trial does not exist here: {study_folder.path}")
    return None


def choose_final_compute(
    settings: Settings,
    origin: StudyFolder | None,
    prepared: SplitData,
    note: Note,
) -> Compute:
    """Choose all cores for a final model, or what the study used for an exact copy of a trial."""
    if not is_exact(settings):
        return compute_alone(settings)
    compute = compute_here(settings)
    if origin is None:
        return compute
    if origin.prepared().fingerprint != prepared.fingerprint:
        differ = f"the images or their split differ from those of study {origin.path.name}"
        note(f"{differ}: so will the metrics")
    recorded = origin.compute()
    if recorded.device == "cuda" and not gpu_count():
        note("no GPU here, unlike in the study: metrics will differ slightly from the trial")
        return compute
    try:
        require_precision(recorded, origin.path)
    except MachineError as error:
        note(f"{error.problems[0].what}: metrics will differ slightly from the trial")
    return recorded
