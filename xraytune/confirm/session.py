"""A study that is confirmed or rehearsed: locked, and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from xraytune.compute import require_device
from xraytune.config.settings import Parameters, Resources, Settings
from xraytune.config.space import Space
from xraytune.confirm.plan import FinishedTrial
from xraytune.confirm.training import Training
from xraytune.errors import Problem, StudyError
from xraytune.files import require_writable
from xraytune.pipeline.prepare import Prepared, restore_pixels
from xraytune.pipeline.task import task_of
from xraytune.records import Compute, Json
from xraytune.search.asha import Rungs, rungs_of
from xraytune.search.inputs import inputs_of_trials, read_inputs, require_same_inputs
from xraytune.search.journal import Journal
from xraytune.search.messages import Callbacks
from xraytune.search.resources import resolved
from xraytune.search.runner import Runner, survey
from xraytune.search.study import StudyFolder, environment, locked


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A locked study.

    Attributes:
        folder: The study.
        space: Its space, with the locations given for this session.
        prepared: Its images.
        compute: Device, threads and precision of its trials.
        machine: Returns the `environment` of a machine that trains.
        cache: The artifact cache.
        searched: The trials of its search.
        rungs: ASHA's rungs of the search.
        resources: Of one training, resolved.
        address: A Ray cluster; None: this machine.
        token: The lock's.
        callbacks: Called with progress.
    """

    folder: StudyFolder
    space: Space
    prepared: Prepared
    compute: Compute
    machine: Callable[[], Mapping[str, Json]]
    cache: Path
    searched: tuple[FinishedTrial, ...]
    rungs: Rungs
    resources: Resources
    address: str | None
    token: str
    callbacks: Callbacks

    def training(self, compared: Sequence[Parameters], place: str) -> Training:
        """Check the inputs of the finalists and return what trains replicates in a folder of the study.

        Raises:
            StudyError: Extra images or weights changed since the search.
        """
        restore_pixels(self.space.settings, self.prepared, self.cache, on_progress=self.callbacks.on_progress)
        inputs = read_inputs(inputs_of_trials(compared), self.space.settings, self.prepared, self.cache)
        require_same_inputs(self.folder, inputs)
        runner = Runner(
            self.folder,
            token=self.token,
            resources=self.resources,
            cache=self.cache,
            address=self.address,
            note=self.callbacks.note,
            opened=lambda dashboard: self.callbacks.on_start(self.folder.path, dashboard),
        )
        return Training(
            folder=self.folder,
            place=place,
            space=self.space,
            prepared=self.prepared,
            compute=self.compute,
            machine=self.machine,
            cache=self.cache,
            runner=runner,
            callbacks=self.callbacks,
        )


def _check_objective(settings: Settings, study: Path, note: Callable[[str], None]) -> None:
    """Refuse (StudyError) a search for a generator; note if the search used another score than the one compared."""
    if settings.objective.is_of_generator:
        what = "this study searched for a generator, so it has no mix to compare with controls"
        fix = "copy its generator (`xraytune export`) into a space that searches mixes, and confirm that study"
        raise StudyError(Problem(what, study, fix))
    compared = task_of(settings).metric
    if settings.metric != compared:
        note(f"finalists are chosen by {settings.metric}, the search's objective; the test compares {compared}")


@contextmanager
def opened(
    study: Path,
    *,
    data: Path | None,
    weights_dir: Path | None,
    cache: Path | None,
    address: str | None,
    callbacks: Callbacks,
) -> Iterator[Session]:
    """Lock a study and read its search; the arguments are those of `confirm`.

    Raises:
        StudyError: There is no study, it is in use, or a file of it is damaged.
        MachineError: The GPU, disk space or the Ray cluster is missing.
    """
    folder = StudyFolder(study.resolve())
    space = folder.space(data=data, weights_dir=weights_dir)
    _check_objective(space.settings, study, callbacks.note)
    cache = (cache or folder.default_cache).resolve()
    require_writable(cache)
    require_writable(folder.path.parent)  # for the test-set access log
    compute = folder.compute()
    resources = resolved(space.settings.resources, has_gpu=compute.device == "cuda")
    if address is None:
        require_device(compute, folder.path)

    @lru_cache
    def machine() -> Mapping[str, Json]:
        where = environment(compute) if address is None else survey(address, resources, note=callbacks.note)[1]
        return {**where, "compute": {**asdict(compute)}}

    with locked(folder, "confirmed") as token:
        journal = Journal(folder.journal_path, space, writable=False)
        yield Session(
            folder=folder,
            space=space,
            prepared=folder.prepared(),
            compute=compute,
            machine=machine,
            cache=cache,
            searched=tuple(
                FinishedTrial.of_row(f"#{row['number']}", journal.parameters(row["number"]), row)
                for row in journal.rows()
            ),
            rungs=rungs_of(space.settings, journal.reports()),
            resources=resources,
            address=address,
            token=token,
            callbacks=callbacks,
        )
