"""The parts of a GAN: the networks of the tutorial, DiffAugment."""

import torch
from torch import nn

from xraytune.space.source_settings import GanSettings
from xraytune.synth.gan import translate
from xraytune.synth.gan_networks import Discriminator, Generator


def test_tutorial_settings_give_the_tutorials_networks() -> None:
    """Counted by hand from its listing with nz=100, ngf=ndf=64, but nc=1.

    Generator: 16 * (100*512 + 512*256 + 256*128 + 128*64 + 64*1) + 2 * (512 + 256 + 128 + 64).
    Discriminator: 16 * (1*64 + 64*128 + 128*256 + 256*512 + 512*1) + 2 * (128 + 256 + 512).
    With nc=3, the sums are the tutorial's known counts: 3,576,704 and 2,765,568.
    """
    tutorial = GanSettings(image_size=64, z_dim=100, width=64, architecture="dcgan")

    generator = Generator(tutorial, class_count=1)
    discriminator = Discriminator(tutorial, class_count=1)

    for network, count in ((generator, 3_574_656), (discriminator, 2_763_520)):
        assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in discriminator.modules()) == 3


def test_pixels_move_down_and_right_and_those_shifted_in_are_middle_grey() -> None:
    images = torch.arange(1.0, 10.0).view(1, 1, 3, 3).repeat(2, 1, 1, 1)
    down = [1, 0]
    right = [-2, 0]

    moved, kept = translate(images, torch.tensor([down, right])[:, :, None, None])

    assert moved.tolist() == [[[0, 0, 0], [3, 0, 0], [6, 0, 0]]]
    assert torch.equal(kept, images[1])
