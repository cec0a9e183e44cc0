"""The code of docs/final-model.md loads a final model without xraytune."""

from pathlib import Path

import torch

from tests.docs.commands import run_python_of
from xraytune.base.tensors import save_state
from xraytune.nets.networks import build_classifier
from xraytune.space.parameters import Parameters


def test_the_page_loads_the_network_in_plain_pytorch(here: Path) -> None:
    parameters = Parameters(backbone="mobilenet_v2", weights="none", trainable="all")
    trained = build_classifier(parameters, 2, weights=None, seed=1).eval()
    (here / "model").mkdir()
    save_state(trained.state_dict(), here / "model/model.safetensors")
    names = run_python_of("docs/final-model.md", "load_state_dict")

    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(names["network"](images), trained(images))
