"""A study's trials, run by Ray or by what stands for it."""

from collections.abc import Callable
from contextlib import closing
from functools import partial

from tests.study.studies import no_gan, write_space
from xraytune.search.callbacks import Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.search.trials import SearchTrials
from xraytune.space.allocation import Allocation, Share
from xraytune.study.folder import StudyFolder


def run(study: StudyFolder, address: str | None = None, **callbacks: Callable[..., None]) -> None:
    """Run a study's trials."""
    space = write_space(study.path.parent.parent)
    watching = Callbacks(**callbacks)
    with closing(Runner(study, cache=study.path, address=address, callbacks=watching)) as runner:
        runner.allocation = Allocation(trial=Share(cpus=1, gpus=0.0))
        runner.run(partial(SearchTrials, study, space, no_gan))
