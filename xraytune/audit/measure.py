"""Measure a folder of synthetic images without training, like a trial's images: a few hundred of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from xraytune.config.fields import parameters_from
from xraytune.config.settings import Experiment
from xraytune.config.space import Space
from xraytune.data.index import ImageFile
from xraytune.generators.grids import png_bytes
from xraytune.metrics.generator_quality import Quality
from xraytune.metrics.memorisation import Memorisation
from xraytune.pipeline.context import RunContext
from xraytune.pipeline.memorisation import measure_memorisation
from xraytune.pipeline.pools import folder_reader
from xraytune.pipeline.prepare import require_unbroken, store_images
from xraytune.pipeline.quality import measure_quality
from xraytune.pipeline.samples import class_samples, sample_grid
from xraytune.report.sections import Picture, Section, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The measurements of the usable images.

    Attributes:
        quality: Their quality, or the reason why it was not measured.
        memorisation: For each class with images, the comparison with unseen patients.
        pictures: Synthetic images beside real ones and, for each class, the synthetic images closest to a training image.
    """

    quality: Quality | str
    memorisation: Mapping[str, Memorisation]
    pictures: tuple[Picture, ...]

    def sections(self) -> tuple[Section, ...]:
        """Return the sections of the page that show the measurements."""
        pictures = Section(id="images", title="Images", link="Images", pictures=self.pictures)
        if isinstance(found := self.quality, str):
            return (pictures,)
        figures = {
            name: {"KID": one.kid, "KID floor": one.floor, "origin AUROC": one.origin[name], **asdict(one.full)}
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


def measure(images: Sequence[ImageFile], synthetic: Path, space: Space, context: RunContext) -> Measured:
    """Measure the usable images of a folder, in the order of `usable_images`.

    Raises DataError if one is broken, MachineError if the weights of `quality.backbone` are missing.
    """
    prepared, progress = context.prepared, context.on_progress
    size_px = prepared.image_size_px
    data = space.settings.data
    store = store_images(synthetic, images, data, of_study=prepared.view, cache=context.cache, on_progress=progress)
    require_unbroken(store, synthetic, "repair or remove them")
    read = folder_reader(images, store)
    backbone, weights = space.networks()[0]
    parameters = parameters_from({"backbone": backbone, "weights": weights})
    quality = measure_quality(Experiment(settings=space.settings, parameters=parameters), context, read)
    memorisation, folder = measure_memorisation(context, read)
    samples = sample_grid(class_samples(read, context, size_px), title=synthetic.name, extra="images of the folder")
    beside = "Real training images beside the first images of the folder."
    pictures = [Picture(content=png_bytes(samples), caption=beside)]
    for name in memorisation:
        nearest = f"{name}: the images closest to a training image, each with that training image on its right."
        pictures.append(Picture(content=(folder / f"nearest_{name}.png").read_bytes(), caption=nearest))
    return Measured(quality=quality, memorisation=memorisation, pictures=tuple(pictures))
