"""Official weights are found by name and verified by hash, and every error has a fix."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from xraytune.base.errors import MachineError
from xraytune.base.tensors import read_weights
from xraytune.nets.backbones import build_backbone, find_weights
from xraytune.nets.networks import build_classifier
from xraytune.space.parameters import Parameters
from xraytune.space.source_settings import GanSettings
from xraytune.synth.generator_inputs import with_features


def test_imagenet_uses_newest_official_file_in_folder(official_mobilenet: Path) -> None:
    """The folder has IMAGENET1K_V1 only, the older of two; it fills the backbone."""
    path = official_mobilenet / "mobilenet_v2-b0353104.pth"
    assert find_weights("mobilenet_v2", "imagenet", official_mobilenet) == path
    assert find_weights("mobilenet_v2", "IMAGENET1K_V1", official_mobilenet) == path
    with pytest.raises(MachineError, match=r"put mobilenet_v2-7ebf99e0\.pth there"):
        find_weights("mobilenet_v2", "IMAGENET1K_V2", official_mobilenet)

    classifier = build_classifier(
        Parameters(backbone="mobilenet_v2", trainable="head"), 2, weights=path, seed=1
    )

    given = read_weights(path)
    for name, tensor in classifier.backbone.state_dict().items():
        assert torch.equal(tensor, given[name]), name


def test_a_gan_can_keep_the_features_of_official_weights(
    official_mobilenet: Path, tmp_path: Path
) -> None:
    """The word gives the same generator as the path of the same file."""
    path = official_mobilenet / "mobilenet_v2-b0353104.pth"
    word = GanSettings(features="imagenet")
    assert with_features(word, official_mobilenet) == GanSettings(features=path)
    with pytest.raises(MachineError, match=r"put mobilenet_v2.* there.*gan\.features: null"):
        with_features(word, tmp_path)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch; a proxy refuses every connection."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "hub/checkpoints"


@pytest.mark.parametrize("is_in_cache", [True, False])
def test_an_official_file_of_other_content_is_refused(offline: Path, is_in_cache: bool) -> None:
    """An incomplete download, or custom weights under an official name."""
    file = offline / "mobilenet_v2-7ebf99e0.pth"
    offline.mkdir(parents=True)
    torch.save(build_backbone("mobilenet_v2")[0].state_dict(), file)

    with pytest.raises(MachineError, match=f"{file}: .*SHA-256 does not match its name"):
        find_weights("mobilenet_v2", "imagenet", None if is_in_cache else offline)


def test_missing_weights_without_network_name_every_file_that_would_do(offline: Path) -> None:
    with pytest.raises(MachineError) as caught:
        find_weights("resnet50", "imagenet", None)

    for words in (
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        "put resnet50-11ad3fa6.pth or resnet50-0676ba61.pth (from https://",
        "--weights-dir",
        f"put resnet50-11ad3fa6.pth into {offline}",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_custom_file_fills_the_backbone(tmp_path: Path, suffix: str) -> None:
    """Unless it has more blocks than the network, as of a deeper one of the same family."""
    path = tmp_path / f"mine{suffix}"

    def backbone(weights: Path | None = path, seed: int = 1) -> dict[str, Tensor]:
        parameters = Parameters(backbone="small_cnn", weights="none")
        network = build_classifier(parameters, 2, weights=weights, seed=seed)
        return network.backbone.state_dict()

    tensors = {name: tensor.contiguous() for name, tensor in backbone(None).items()}
    save = save_file if suffix == ".safetensors" else torch.save
    save(tensors, path)
    assert find_weights("small_cnn", str(path), None) == path

    loaded = backbone(seed=2)

    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.items())
    save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)  # of DataParallel
    again = backbone(seed=3)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.items())
    counted = {"0.1.num_batches_tracked": torch.tensor(float("inf"), dtype=torch.float16)}
    save(tensors | counted, path)  # a model in half precision
    backbone()
    save(tensors | {"0.0.weight": tensors["0.0.weight"] * float("nan")}, path)
    with pytest.raises(MachineError, match=r"NaN or infinite in 1 of \d+ tensors: 0\.0\.weight"):
        backbone()
    save(tensors | {"7.3.weight": torch.zeros(1)}, path)
    with pytest.raises(MachineError, match=r"first difference: 7\.3\.weight"):
        backbone()
