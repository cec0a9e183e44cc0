"""Write a DenseNet-121 of TorchXRayVision as a state dict, for `backbone: xrv_densenet121_NAME`.

    uv run examples/convert_xrv.py nih xrv_nih.safetensors

Its own files are pickled networks: loading one runs whatever code it contains, so xraytune never
does. Run this where you trust these files. The names are all, nih, rsna, pc, chex, mimic_nb and
mimic_ch.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["torchxrayvision>=1.3", "safetensors>=0.5"]
# ///

import sys
from pathlib import Path

from safetensors.torch import save_file
from torch import nn


def convert(network: nn.Module, out: Path) -> None:
    """Write the layers that compute features, without the outputs and their thresholds."""
    layers = {
        name: tensor.contiguous()
        for name, tensor in network.state_dict().items()
        if name.startswith("features.")
    }
    save_file(layers, out)


def main(name: str, out: str) -> None:
    """Download a network to TorchXRayVision's cache, and convert it."""
    import torchxrayvision

    convert(torchxrayvision.models.DenseNet(weights=f"densenet121-res224-{name}"), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
