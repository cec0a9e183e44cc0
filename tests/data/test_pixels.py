"""Every image becomes square and a row of the store, or is broken."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tests.data.conftest import DataFolder
from tests.data.image_files import gradient
from xraytune.base.arrays import UInt8Array
from xraytune.base.errors import DataError
from xraytune.base.seeding import numpy_generator
from xraytune.data.decoding import GreyImage, Resize, decode_files
from xraytune.data.images import ImageFile
from xraytune.data.pixels import open_pixels, store_images, stored_files
from xraytune.data.prepare import prepare_index
from xraytune.space.data_settings import DataSettings


def decode(file: Path, size_px: int, resize: Resize = "squash") -> UInt8Array:
    (image,) = decode_files(file.parent, [file.name], size_px, resize)
    assert isinstance(image, GreyImage)
    return image.pixels


def test_an_image_of_the_right_size_keeps_its_grey_levels_and_a_large_jpeg_is_decoded_small(
    tmp_path: Path,
) -> None:
    large = Image.fromarray(gradient(900, 1200))
    large.save(tmp_path / "a.jpeg", quality=95)
    Image.fromarray(gradient(32, 32)).save(tmp_path / "a.png")

    decoded = decode(tmp_path / "a.png", 32)

    assert_array_equal(decoded, gradient(32, 32))
    assert decoded.dtype == np.uint8
    whole = np.asarray(large.resize((64, 64), Image.Resampling.BOX))
    assert_allclose(decode(tmp_path / "a.jpeg", 64).astype(int), whole, atol=3)


def test_blank_images_and_those_of_less_depth_than_stated_are_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A dark 16-bit image looks like a 12-bit one."""
    deep = gradient(32, 32).astype(np.uint16)
    for number, levels in enumerate((deep * 257, deep * 257, deep * 16, 0 * deep + 65535)):
        Image.fromarray(levels).save(tmp_path / f"{number}.png")

    assert len([*decode_files(tmp_path, [f"{number}.png" for number in range(4)], 32)]) == 4

    blank, depth = caplog.messages
    assert "1 blank image" in blank
    assert "1 image of PNG 16-bit with 12-bit" in depth
    assert "3 others" in depth


@pytest.mark.slow
@pytest.mark.parametrize("size", [(300, 200), (97, 97), (40, 33), (64, 1000), (1031, 700)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_crop_equals_torchvision(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    from torchvision.transforms import functional  # seconds, which only this test should pay

    width, height = size
    noise = numpy_generator(1, "noise").integers(0, 90, (height, width))
    Image.fromarray((gradient(height, width) // 2 + noise).astype(np.uint8)).save(
        tmp_path / "a", kind, quality=100
    )

    expected = functional.center_crop(functional.resize(Image.open(tmp_path / "a"), [64]), [64])
    decoded = decode(tmp_path / "a", 64, "crop")

    reduced = (
        kind == "JPEG" and min(size) > 256
    )  # the decoder's own reduction averages a little differently
    assert_allclose(decoded.astype(int), np.asarray(expected), atol=9 if reduced else 1)


def test_a_class_whose_images_are_all_broken_is_named_with_the_reason(kermany: DataFolder) -> None:
    for file in (kermany / "NORMAL").iterdir():
        file.write_bytes(b"cut off")
    cache = kermany.parent / "cache"

    with pytest.raises(DataError, match=r"there is none of NORMAL \(NORMAL/IM-0001-0001\.jpeg: .+"):
        prepare_index(kermany.index(), kermany.settings(), cache, skip_broken=True)


def test_a_store_has_a_row_for_each_file_that_decodes_in_order(tmp_path: Path) -> None:
    images = [ImageFile(file=f"{number}.png", label=0) for number in range(150)]
    for number, image in enumerate(images):
        Image.new("L", (40, 40), number).save(tmp_path / image.file)
    (tmp_path / "7.png").write_bytes(b"")
    (tmp_path / "99.png").write_bytes(b"text")
    data = DataSettings(path=tmp_path, image_size=32)

    store = store_images(tmp_path, images, data, cache=tmp_path / "cache")

    pixels = open_pixels(store)
    stored, broken = stored_files(store)
    assert pixels.shape == (148, 32, 32)
    assert [f"{level}.png" for level in pixels[:, 0, 0]] == list(stored)
    assert [image.file for image in broken] == ["7.png", "99.png"]
    assert not pixels.flags.writeable
