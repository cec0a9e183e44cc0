"""An extension (`--extension examples/diffusion.py:Diffusion`): class-conditional diffusion at 32 px, with diffusers."""

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch.nn.functional import interpolate, mse_loss


@dataclass(frozen=True)
class Settings:
    steps: int = 1500
    width: int = 32


class Diffusion:
    Settings = Settings
    pretrained_on = ()

    def fit(self, images, targets, *, classes, settings, folder, seed, device, progress, **_):
        torch.manual_seed(seed)
        network = UNet2DModel(
            sample_size=32,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(settings.width, 2 * settings.width),
            norm_num_groups=8,
            down_block_types=["DownBlock2D"] * 2,
            up_block_types=["UpBlock2D"] * 2,
            num_class_embeds=len(classes),
        ).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        pixels = torch.from_numpy(images[:, None]).to(device) / 127.5 - 1
        pixels = interpolate(pixels, size=32, mode="area")
        labels = torch.from_numpy(targets).to(device)
        for step in range(settings.steps):
            rows = torch.randint(len(pixels), (16,), device=device)
            times = torch.randint(1000, (16,), device=device)
            noise = torch.randn(16, 1, 32, 32, device=device)
            noisy = DDPMScheduler().add_noise(pixels[rows], noise, times)
            loss = mse_loss(network(noisy, times, labels[rows]).sample, noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(step + 1, settings.steps)
        network.save_pretrained(folder)

    def sample(self, targets, *, folder, seed, device, **_):
        network = UNet2DModel.from_pretrained(folder).to(device).eval()
        labels = torch.from_numpy(targets).to(device)
        random = torch.Generator().manual_seed(seed)
        images = torch.randn(len(targets), 1, 32, 32, generator=random).to(device)
        schedule = DDIMScheduler()
        schedule.set_timesteps(20)
        with torch.no_grad():
            for time in schedule.timesteps:
                noise = network(images, time, labels).sample
                images = schedule.step(noise, time, images).prev_sample
        return ((images[:, 0].clamp(-1, 1) + 1) * 127.5).byte().cpu().numpy()
