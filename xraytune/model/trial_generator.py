"""Draw images from the generator of a trial, which the search has left in the cache."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from xraytune.base.artifacts import is_intact
from xraytune.base.errors import ArtifactError, ConfigError, Problem
from xraytune.base.files import require_new
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.prepare import RunContext
from xraytune.model.best import best_stage
from xraytune.model.generator_folder import GeneratorSample, fill_generator_folder, generator_sample
from xraytune.study.folder import StudyFolder
from xraytune.synth.synthesize import generator_paths


def sample_trial_generator(
    study: Path,
    trial: int,
    *,
    count: int,
    out: Path,
    class_name: str | None = None,
    cache: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> GeneratorSample:
    """Draw images from a trial's generator, as `generator_sample` does: the first ones are those that it trained on.

    Args:
        study: Folder of the study.
        trial: Number of a trial with a generator.
        count: Number of images.
        out: The folder to create.
        class_name: Draw this class alone; by default the classes have their shares of the training images.
        cache: Artifact cache of the search; default: the one next to the studies.
        on_progress: Called with the number of images drawn.

    Raises:
        StudyError: There is no such study or trial, or a file of it is damaged.
        ConfigError: The trial has no generator, there is no such class, `count` is below 1, or `out` exists.
        ArtifactError: The generator is not in the cache.
    """
    require_new(out)
    folder = StudyFolder(study.resolve())
    experiment = best_stage(folder, folder.experiment(trial), trial)
    settings = experiment.parameters.generator
    if settings is None:
        fix = "give one that has; `xraytune status` shows the mix of each trial"
        raise ConfigError(Problem(f"trial {trial} has no generator", study, fix))
    cache = (cache or folder.default_cache).resolve()
    prepared, compute = folder.prepared(), folder.compute()
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    for release in reversed(folder.releases()):
        networks = generator_paths(settings, prepared, compute, cache, torch=release["torch"])
        if all(map(is_intact, networks.values())):
            with TemporaryDirectory() as kept:
                fill_generator_folder(Path(kept), networks, experiment, context, torch=release["torch"])
                return generator_sample(
                    Path(kept), count=count, out=out, class_name=class_name, on_progress=on_progress
                )
    again = f"export the trial (--trial {trial} --exact) and train it again with `train`"
    fix = f"wait until the search has trained it, give the cache of the search (--cache), or {again}"
    raise ArtifactError(Problem(f"the {settings.noun} of trial {trial} is not in the cache", cache, fix))
