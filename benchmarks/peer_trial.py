"""A trial written as in the tutorials of PyTorch and Ray Tune: one function that trains a GAN, then a classifier.

It shares nothing with other trials. Networks, steps, batch sizes and bfloat16 are those of
`benchmarks.peers`, so only the work differs. Torchvision's `ImageFolder` reads the images from the
folders `train` and `val` of `config["data"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from xraytune.space.source_settings import GanSettings
from xraytune.synth.gan_networks import Discriminator, Generator

GAN = GanSettings(architecture="dcgan")
BATCH, IMAGE_SIZE_PX = 32, 128
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def trial(config: dict[str, Any], on_epoch: Callable[[float], object] = lambda _: None) -> float:
    """Train both networks; return the best AUROC on `val` over all epochs."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, ratio = Path(config["data"]), float(config["ratio"])
    generator = train_gan(config)
    real = xrays(data / "train")
    images, labels = synthetic_images(generator, real.targets, round(ratio * len(real)))
    synthetic: Any = list(zip(images, labels.tolist(), strict=True))
    train: DataLoader[Any] = DataLoader(
        ConcatDataset([real, synthetic]), batch_size=round(BATCH * (1 + ratio)), shuffle=True
    )
    val = DataLoader(xrays(data / "val"), batch_size=128)
    model = classifier(Path(config["weights"]), trainable=config["trainable"])
    steps_per_epoch = -(-len(real) // BATCH)
    return train_classifier(
        model,
        lambda: forever(train),
        lambda: iter(val),
        lr=config["lr"],
        epochs=config["epochs"],
        steps=steps_per_epoch,
        on_epoch=on_epoch,
    )


def bfloat16() -> torch.autocast:
    """Return the autocast that xraytune uses, too."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def forever(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield batches, one pass after another."""
    while True:
        yield from loader


def xrays(folder: Path) -> ImageFolder:
    """Return images in the form that a pretrained classifier expects."""
    steps = [transforms.Grayscale(3), transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    return ImageFolder(str(folder), transforms.Compose(steps))


def train_gan(config: dict[str, Any]) -> Generator:
    """Train as in PyTorch's DCGAN tutorial, but conditioned on labels."""
    side = int(config["gan_image_size"])
    settings = GAN.model_copy(update={"image_size": side, "width": int(config["gan_width"])})
    shown = [
        transforms.Grayscale(1),
        transforms.Resize(side),
        transforms.ToTensor(),
        transforms.Normalize(0.5, 0.5),
    ]
    images = ImageFolder(str(Path(config["data"]) / "train"), transforms.Compose(shown))
    batches = forever(DataLoader(images, batch_size=GAN.batch_size, shuffle=True, drop_last=True))
    generator, discriminator = (
        Generator(settings, len(images.classes)),
        Discriminator(settings, len(images.classes)),
    )
    betas = 0.5, 0.999
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=GAN.lr_g, betas=betas)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=GAN.lr_d, betas=betas)
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(GAN.batch_size), torch.zeros(GAN.batch_size)
    for _ in range(int(config["gan_steps"])):
        real, labels = next(batches)
        discriminator.zero_grad()
        with bfloat16():
            logits = discriminator(real, labels)
            fake = generator(torch.randn(GAN.batch_size, GAN.z_dim), labels)
            fake_logits = discriminator(fake.detach(), labels)
        error_real, error_fake = (
            criterion(logits.float(), ones),
            criterion(fake_logits.float(), zeros),
        )
        torch.autograd.backward(error_real + error_fake)
        optimizer_d.step()
        generator.zero_grad()
        with bfloat16():
            logits = discriminator(fake, labels)
        error = criterion(logits.float(), ones)
        torch.autograd.backward(error)
        optimizer_g.step()
    return generator


@torch.no_grad()
def synthetic_images(
    generator: Generator, real_labels: list[int], count: int
) -> tuple[Tensor, Tensor]:
    """Return `count` images at the classifier's size and their labels, with the class proportions of real images."""
    generator.eval()
    labels = torch.tensor(real_labels)[
        torch.linspace(0, len(real_labels) - 1, count).round().long()
    ]
    drawn = []
    for part in torch.split(labels, 64):
        with bfloat16():
            grey = generator(torch.randn(len(part), GAN.z_dim), part).float() / 2 + 0.5
        grey = nn.functional.interpolate(grey, size=IMAGE_SIZE_PX, mode="bilinear", antialias=True)
        drawn.append(transforms.functional.normalize(grey.expand(-1, 3, -1, -1), _MEAN, _STD))
    return torch.cat(drawn), labels


def classifier(weights: Path, *, trainable: str) -> nn.Module:
    """Return a pretrained MobileNetV2 with a new head; all else is frozen if `trainable` is "head"."""
    model: nn.Module = models.mobilenet_v2()
    model.load_state_dict(torch.load(weights, weights_only=True))
    if trainable == "head":
        model.requires_grad_(False)
    model.classifier = nn.Linear(1280, 2)
    return model


def train_classifier(
    model: nn.Module,
    train: Callable[[], Iterator[Any]],
    val: Callable[[], Iterator[Any]],
    *,
    lr: float,
    epochs: int,
    steps: int,
    on_epoch: Callable[[float], object],
) -> float:
    """Train for `epochs` of `steps` each, with validation after each; return the best AUROC."""
    is_frozen = not all(parameter.requires_grad for parameter in model.parameters())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    batches, best = train(), 0.0
    for _ in range(epochs):
        model.train(not is_frozen)  # a frozen backbone keeps its batch norm statistics
        for _ in range(steps):
            images, labels = next(batches)
            with bfloat16():
                logits = model(images)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        model.eval()
        scores, truth = list[Tensor](), list[Tensor]()
        for images, labels in val():
            with torch.no_grad(), bfloat16():
                scores.append(model(images).float().softmax(dim=1)[:, 1])
            truth.append(labels)
        auroc = float(roc_auc_score(torch.cat(truth), torch.cat(scores)))
        on_epoch(auroc)
        best = max(best, auroc)
    return best
