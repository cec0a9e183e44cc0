"""An extension (`--extension examples/diffusion.py:Diffusion`): class-conditional diffusion at 32 px, with diffusers."""

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch.nn.functional import interpolate, mse_loss


@dataclass(frozen=True)
class Settings:
    steps: int = 1500


class Diffusion:
    Settings = Settings
    pretrained_on = ()

    def fit(self, images, targets, *, classes, settings, folder, device, progress, **_):
        blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
        channels = {"in_channels": 1, "out_channels": 1, "block_out_channels": (32, 64)}
        sizes = {"layers_per_block": 1, "num_class_embeds": len(classes)}
        network = UNet2DModel(**blocks, **channels, **sizes).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        pixels = torch.tensor(images[:, None], device=device) / 127.5 - 1
        pixels = interpolate(pixels, size=32, mode="area")
        labels = torch.tensor(targets, device=device)
        for step in range(settings.steps):
            rows = torch.randint(len(pixels), (16,), device=device)
            times = torch.randint(1000, (16,), device=device)
            noise = torch.randn_like(pixels[rows])
            noisy = DDPMScheduler().add_noise(pixels[rows], noise, times)
            optimizer.zero_grad()
            mse_loss(network(noisy, times, labels[rows]).sample, noise).backward()
            optimizer.step()
            progress(step + 1, settings.steps)
        network.save_pretrained(folder)

    @torch.no_grad()
    def sample(self, targets, *, folder, device, **_):
        network = UNet2DModel.from_pretrained(folder).to(device)
        images = torch.randn(len(targets), 1, 32, 32).to(device)
        schedule = DDIMScheduler()
        schedule.set_timesteps(20)
        for time in schedule.timesteps:
            noise = network(images, time, torch.tensor(targets, device=device)).sample
            images = schedule.step(noise, time, images).prev_sample
        return ((images[:, 0].clamp(-1, 1) + 1) * 127.5).byte().cpu().numpy()
