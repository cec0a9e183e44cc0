"""An extension (`--extension examples/vae.py:Vae`): a class-conditional variational autoencoder.

From: Kingma and Welling 2014, "Auto-Encoding Variational Bayes" (arXiv:1312.6114); Sohn et al. 2015 (conditional).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy, interpolate, one_hot

SIDE = 32


@dataclass(frozen=True)
class Settings:
    steps: int = 1500
    latent: int = 32
    width: int = 512


class Network(nn.Module):
    def __init__(self, settings, classes):
        super().__init__()
        self.classes, sizes = classes, (SIDE**2, settings.width, settings.latent)
        self.encode = nn.Sequential(
            nn.Linear(sizes[0] + classes, sizes[1]), nn.ReLU(), nn.Linear(sizes[1], 2 * sizes[2])
        )
        self.decode = nn.Sequential(
            nn.Linear(sizes[2] + classes, sizes[1]),
            nn.ReLU(),
            nn.Linear(sizes[1], sizes[0]),
            nn.Sigmoid(),
        )

    def with_class(self, values, labels):
        return torch.cat([values, one_hot(labels, self.classes).float()], dim=1)


class Vae:
    Settings = Settings
    pretrained_on = ()
    longer_by = "steps"

    def fit(self, images, targets, *, classes, masks, settings, folder, seed, device, progress):
        network = Network(settings, len(classes)).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        state = folder / "state.pt"
        start = 0
        if state.exists():
            saved = torch.load(state, map_location=device)
            network.load_state_dict(saved["network"])
            optimizer.load_state_dict(saved["optimizer"])
            start = saved["step"]
        pixels = torch.from_numpy(images[:, None]).float().to(device) / 255
        pixels = interpolate(pixels, size=SIDE, mode="area").flatten(1)
        labels = torch.from_numpy(targets).to(device)
        for step in range(start, settings.steps):
            random = torch.Generator().manual_seed(
                seed + step
            )  # so that a resumed training goes on alike
            rows = torch.randint(len(pixels), (64,), generator=random)
            mean, log_variance = network.encode(
                network.with_class(pixels[rows], labels[rows])
            ).chunk(2, dim=1)
            noise = torch.randn(mean.shape, generator=random).to(device)
            code = mean + noise * (log_variance / 2).exp()
            decoded = network.decode(network.with_class(code, labels[rows]))
            distance = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2
            loss = (binary_cross_entropy(decoded, pixels[rows], reduction="sum") + distance) / len(
                rows
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(step + 1, settings.steps)
            if (step + 1) % 250 == 0 or step + 1 == settings.steps:
                saved = {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                }
                torch.save(saved, folder / "new.pt")
                (folder / "new.pt").replace(state)

    def sample(self, targets, *, classes, settings, folder, seed, device, size):
        network = Network(settings, len(classes))
        network.load_state_dict(torch.load(folder / "state.pt", map_location="cpu")["network"])
        code = torch.randn(
            len(targets), settings.latent, generator=torch.Generator().manual_seed(seed)
        )
        with torch.no_grad():
            pixels = network.decode(network.with_class(code, torch.from_numpy(targets)))
        return (pixels.view(-1, SIDE, SIDE) * 255).byte().numpy()
