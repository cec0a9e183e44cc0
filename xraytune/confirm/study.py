"""A study that is confirmed: locked and read, with what trains and scores its replicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from xraytune.base.files import require_writable
from xraytune.base.records import Compute, Json
from xraytune.confirm.arms import CONFIRM_FOLDER
from xraytune.data.prepare import Prepared
from xraytune.nets.compute import allocation_of, require_device
from xraytune.search.asha import Rungs, rungs_of
from xraytune.search.callbacks import Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.space.settings import Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.journal import Journal
from xraytune.study.row import TrialRow
from xraytune.study.start import environment
from xraytune.tasks import task_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudy:
    """A locked study whose search has ended.

    Attributes:
        space: Its space, with the locations given for this confirmation.
        compute: That of its trials.
        searched: The ended trials of the search.
        rungs: ASHA's rungs of the search; they decide which top-up trials are pruned.
    """

    folder: StudyFolder
    space: Space
    prepared: Prepared
    compute: Compute
    cache: Path
    searched: Sequence[TrialRow]
    rungs: Rungs
    runner: Runner
    callbacks: Callbacks

    @property
    def settings(self) -> Settings:
        """The study's settings."""
        return self.space.settings

    @property
    def runs_folder(self) -> StudyFolder:
        """The folder of the replicates."""
        return StudyFolder(self.folder.path / CONFIRM_FOLDER)

    def describe_machine(self) -> dict[str, Json]:
        """Return the `environment` of a machine that trains."""
        where = environment(self.compute)
        if self.runner.address is not None:
            where = self.runner.survey(self.settings, has_gpu=self.compute.device == "cuda")
        return {**where, "compute": asdict(self.compute)}


@contextmanager
def open_study(
    study: Path,
    *,
    data: Path | None,
    weights_dir: Path | None,
    cache: Path | None,
    address: str | None,
    callbacks: Callbacks,
) -> Iterator[OpenStudy]:
    """Lock a study and read its search, to train replicates; arguments as for `confirm`.

    Raises StudyError if there is no study, it is in use, or a file of it is damaged; MachineError
    if the GPU, disk space or the Ray cluster is missing.
    """
    folder = StudyFolder(study.resolve())
    space = folder.space(data=data, weights_dir=weights_dir)
    settings = space.settings
    metric = task_of(settings).metric
    if settings.metric != metric:
        callbacks.note(
            f"finalists are chosen by {settings.metric}, the search's objective; arms are compared by {metric}"
        )
    cache = (cache or folder.default_cache).resolve()
    require_writable(cache)
    require_writable(folder.path.parent)  # for the test-set access log
    compute = folder.compute()
    if address is None:
        require_device(compute, folder.path)
    runner = Runner(folder, cache=cache, address=address, callbacks=callbacks)
    runner.allocation = allocation_of(settings, has_gpu=compute.device == "cuda")
    with locked(folder, "confirmed"), runner:
        journal = Journal(folder.journal_path, space, writable=False)
        yield OpenStudy(
            folder=folder,
            space=space,
            prepared=folder.prepared(),
            compute=compute,
            cache=cache,
            searched=journal.rows(),
            rungs=rungs_of(settings, journal.reports(), journal.arm),
            runner=runner,
            callbacks=callbacks,
        )
