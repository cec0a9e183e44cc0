"""DICOM as a radiologist's screen shows it, and the patients that its headers name."""

import hashlib
import io
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.data.conftest import DataFolder
from tests.data.image_files import FILE, dicom, encoded, grey_of, ramp, reason_of
from xraytune.base.arrays import AnyArray, Float64Array, Int64Array
from xraytune.base.errors import MachineError
from xraytune.data.decoding import read_grey, read_header
from xraytune.data.split import split_by_patient
from xraytune.space.data_settings import SplitSettings


def shown(
    levels: AnyArray, bits: int = 12, syntax: UID = ExplicitVRLittleEndian, **attributes: Any
) -> Int64Array:
    """The grey levels of a DICOM file."""
    return grey_of(dicom(levels, bits, syntax, **attributes))


def full_range(levels: AnyArray, bits: int = 12) -> Float64Array:
    """The grey of levels whose lowest one is black."""
    return np.asarray((levels - float(levels.min())) / (2**bits - 1) * 255)


RAMP = ramp(0, 4095)
SIGNED = ramp(-2048, 2047, np.int16)
MONOCHROME1 = {"PhotometricInterpretation": "MONOCHROME1"}


@pytest.mark.parametrize(
    ("levels", "bits", "attributes", "is_inverted"),
    [
        (ramp(0, 65535), 16, {}, False),
        (SIGNED, 12, {}, False),
        (RAMP, 12, {"RescaleSlope": 2, "RescaleIntercept": -1000}, False),
        (RAMP, 12, {"RescaleSlope": -1}, True),
        (RAMP, 12, {"PhotometricInterpretation": None}, False),
        (RAMP, 12, MONOCHROME1, True),
        (RAMP, 12, MONOCHROME1 | {"PresentationLUTShape": "IDENTITY"}, True),
    ],
)
def test_without_a_window_all_levels_are_shown(
    levels: AnyArray, bits: int, attributes: dict[str, Any], is_inverted: bool
) -> None:
    """Signed values reach below zero, and the range is rescaled with the values.

    Devices write wrong shapes of the presentation LUT.
    """
    content = dicom(levels, bits, **attributes)
    expected = full_range(levels, bits)

    assert_allclose(grey_of(content), 255 - expected if is_inverted else expected, atol=0.51)
    assert read_grey(content, FILE, needed_px=8).kind == f"DICOM {bits}-bit"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000, 1000), (1500.5, 40)])
@pytest.mark.parametrize(("slope", "intercept"), [(2, -1000), (-1, 4095)])
def test_windows_follow_the_standard(
    function: str, center: float, width: float, slope: int, intercept: int
) -> None:
    """By the formulas of PS3.3, sections C.11.2.1.2.1 and C.11.2.1.3."""
    window: dict[str, Any] = {"WindowCenter": center, "WindowWidth": width}
    window["VOILUTFunction"] = function

    grey = shown(RAMP, RescaleSlope=slope, RescaleIntercept=intercept, **window)

    values = RAMP * float(slope) + intercept
    expected = (values - (center - 0.5)) / (width - 1) + 0.5
    if function == "SIGMOID":
        expected = 1 / (1 + np.exp(-4 * (values - center) / width))
    elif function == "LINEAR_EXACT":
        expected = (values - center) / width + 0.5
    assert_allclose(grey, np.clip(expected, 0, 1) * 255, atol=0.51)


def test_odd_windows() -> None:
    """The first of several counts; no width means a placeholder, and width 1 a threshold."""

    def windowed(center: Any, width: Any) -> Int64Array:
        return shown(RAMP, WindowCenter=center, WindowWidth=width)

    assert_array_equal(windowed([1000, 3000], [500, 10]), windowed(1000, 500))
    assert_array_equal(windowed(0, 0), shown(RAMP))
    assert_array_equal(windowed(2000, 1), np.where(RAMP > 1999.5, 255, 0))


def lut(entries: AnyArray, first: int, bits: int, *, packed: bool = False) -> Sequence:
    """A table, perhaps with its entries as bytes."""
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "US"
    if packed:
        item.add_new("LUTData", "OW", entries.tobytes())
    else:
        item.add_new("LUTData", "US", entries.tolist())
    return Sequence([item])


SQUARES = (np.arange(4096) ** 2 // 4096).astype(np.uint16)
EIGHT = (SQUARES // 16).astype(np.uint8)


@pytest.mark.parametrize(
    ("table", "expected", "attributes"),
    [
        (lut(EIGHT, 0, 8), EIGHT / 255, {}),
        (lut(EIGHT, 0, 8, packed=True), EIGHT / 255, {}),
        (lut(EIGHT.astype(np.uint16), 0, 8, packed=True), EIGHT / 255, {}),
        (lut(SQUARES, 0, 16), SQUARES / 4095, {}),
        (lut(SQUARES, 2**16 - 1024, 12), SQUARES / 4095, {"RescaleIntercept": -1024}),
        (lut(SQUARES, 0, 12), SQUARES / 4095, {"WindowCenter": 5, "WindowWidth": 1}),
    ],
    ids=["8 bits", "packed", "words", "16 bits for 12", "negative first", "before a window"],
)
def test_tables_as_devices_write_them_are_applied(
    table: Sequence, expected: Float64Array, attributes: dict[str, Any]
) -> None:
    """A modality LUT replaces the rescale."""
    expected = expected[RAMP] * 255

    assert_allclose(shown(RAMP, VOILUTSequence=table, **attributes), expected, atol=0.51)
    if not attributes:
        rescaled = shown(RAMP, ModalityLUTSequence=table, RescaleSlope=2)
        assert_allclose(rescaled, expected, atol=0.51)


def compressed(levels: AnyArray, kind: str, **options: object) -> bytes:
    return encapsulate([encoded(levels, kind, **options)])


def stored_as(stored: AnyArray, syntax: UID) -> bytes:
    if syntax == JPEG2000Lossless:
        return compressed(stored.view(np.uint16), "JPEG2000", no_jp2=True)
    if syntax == RLELossless:
        dataset = dcmread(io.BytesIO(dicom(stored, 16)))
        dataset.compress(RLELossless)
        return bytes(dataset.PixelData)
    return (stored.byteswap() if syntax == ExplicitVRBigEndian else stored).tobytes()


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless]
)
@pytest.mark.parametrize("levels", [RAMP, SIGNED])
def test_bits_above_those_stored_show_nothing(syntax: UID, levels: AnyArray) -> None:
    """Old devices keep overlays there."""
    overlaid = (levels & 0xFFF).view(np.uint16)
    overlaid[:, ::2] |= np.uint16(1 << 15)

    expected = full_range(levels)
    for stored in (levels, overlaid.view(levels.dtype)):
        grey = shown(levels, 12, syntax, PixelData=stored_as(stored, syntax))
        assert_allclose(grey, expected, atol=0.51)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("levels", [RAMP, SIGNED])
def test_bits_at_the_high_end_are_shifted_down(syntax: UID, levels: AnyArray) -> None:
    """HighBit is then above BitsStored, and an overlay may be in the bits below."""
    stored = levels << 4
    stored[:, ::2] |= 1

    grey = shown(levels, 12, syntax, HighBit=15, PixelData=stored_as(stored, syntax))

    assert_allclose(grey, full_range(levels), atol=0.51)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("padding", "attributes"),
    [
        (0, {"PixelPaddingValue": 0}),
        (4095, {"PixelPaddingValue": 4095}),
        (4000, {"PixelPaddingValue": 4010, "PixelPaddingRangeLimit": 3990}),
        (0, {"PixelPaddingValue": 0, "WindowCenter": 2048, "WindowWidth": 4096}),
    ],
)
def test_padding_at_the_border_is_black(
    photometric: str, padding: int, attributes: dict[str, Any]
) -> None:
    """A saturated pixel inside the image has the same value, and keeps its grey."""
    levels = ramp(50, 3900)
    levels[:, :6] = levels[-2:] = levels[10, 20] = padding

    grey = shown(levels, PhotometricInterpretation=photometric, **attributes)

    expected = levels / 4095 * 255
    if photometric == "MONOCHROME1":
        expected = 255 - expected
    expected[:, :6] = expected[-2:] = 0
    assert_allclose(grey, expected, atol=1)


@pytest.mark.parametrize(
    ("levels", "bits", "kind"),
    [
        (ramp(0, 4095), 16, "DICOM 16-bit with 12-bit content"),
        (ramp(0, 255), 12, "DICOM 12-bit with 8-bit content"),
        (ramp(-1024, 3071, np.int16), 16, "DICOM 16-bit with 12-bit content"),
        (ramp(0, 32767, np.int16), 16, "DICOM 16-bit"),
        (np.stack([ramp(0, 255)] * 3, axis=-1), 16, "DICOM 16-bit with 8-bit content"),
    ],
)
def test_without_a_window_the_depth_of_the_content_counts(
    levels: AnyArray, bits: int, kind: str
) -> None:
    found = read_grey(dicom(levels, bits), FILE, needed_px=8)

    assert found.kind == kind
    assert_allclose(found.pixels, ramp(0, 255), atol=1.01)


def test_colours_become_grey() -> None:
    levels = ramp(0, 255, np.uint8)
    colours = np.stack([levels, levels // 2, ramp(0, 9, np.uint8)], axis=-1)
    ybr = np.stack([levels, *np.full((2, 24, 32), 128, dtype=np.uint8)], axis=-1)
    jpeg = compressed(levels, "JPEG", quality=100)

    expected = colours @ np.array([0.299, 0.587, 0.114])
    assert_allclose(shown(colours, 8), expected, atol=1.1)
    assert_allclose(shown(ybr, 8, PhotometricInterpretation="YBR_FULL"), levels, atol=1)
    assert_allclose(shown(levels, 8, JPEGBaseline8Bit, PixelData=jpeg), levels, atol=3)


SHORT = lut(np.arange(100, dtype=np.uint16), 0, 12)
SHORT[0].LUTDescriptor = [4096, 0, 12]
DARK = ramp(0, 9)
GOOD = dicom(RAMP, PatientID="77", WindowCenter=2000, WindowWidth=4000)
DAMAGED = "is truncated or damaged"
IN_JPEG_2000 = {"HighBit": 15, "PixelData": stored_as(DARK, JPEG2000Lossless)}
BROKEN: dict[str, tuple[bytes, str]] = {
    "a_report": (dicom(None), "it contains no image, but perhaps a report"),
    "no_pixels": (dicom(None, Rows=8, Columns=8), DAMAGED),
    "several_frames": (dicom(DARK, NumberOfFrames=3), "it contains 3 images"),
    "no_decoder": (
        dicom(DARK, 12, JPEGLSLossless, PixelData=encapsulate([b"pixels"])),
        "no decoder of JPEG-LS Lossless Image Compression is installed; decompress it",
    ),
    "floats": (
        dicom(None, Rows=8, Columns=8, BitsAllocated=32, FloatPixelData=bytes(256)),
        "its pixels are floating-point numbers",
    ),
    "perhaps_a_negative": (
        dicom(DARK, PresentationLUTShape="INVERSE"),
        "it may be a negative, since MONOCHROME2 contradicts PresentationLUTShape INVERSE",
    ),
    "compressed_bits_at_the_high_end": (
        dicom(DARK, 12, JPEG2000Lossless, **IN_JPEG_2000),
        "HighBit is above BitsStored in compressed pixels",
    ),
    "palette": (
        dicom(DARK, PhotometricInterpretation="PALETTE COLOR"),
        "the colour model PALETTE COLOR",
    ),
    "grey_with_three_values": (
        dicom(np.stack([DARK] * 3, axis=-1), PhotometricInterpretation="MONOCHROME2"),
        "MONO",
    ),
    "cut_in_its_header": (GOOD[:400], DAMAGED),
    "cut_in_its_pixels": (GOOD[:-1000], DAMAGED),
    "cut_at_its_start": (GOOD[:141], DAMAGED),
    "a_short_table": (dicom(RAMP, VOILUTSequence=SHORT), DAMAGED),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(name: str) -> None:
    content, reason = BROKEN[name]

    assert reason in reason_of(content)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("start", [b"\x02\x00\x00\x00UL", b"\x08\x00\x16\x00"])
def test_a_file_without_preamble_is_read(syntax: UID, start: bytes) -> None:
    """From its meta information, or without that."""
    whole = dicom(RAMP, 12, syntax, PatientID="77")

    bare = whole[whole.index(start) :]

    header = {"width_px": 32, "height_px": 24, "patient_id": "77", "view": "", "kind": "DICOM"}
    assert read_header(bare, FILE) == read_header(whole, FILE) == header
    assert_array_equal(grey_of(bare), grey_of(whole))


@pytest.mark.parametrize("ids", [("ANONYMOUS", "ANONYMOUS"), ("CLASS A", "CLASS B")])
def test_a_placeholder_for_all_patients_is_named_and_can_be_overridden(
    xrays: DataFolder, ids: tuple[str, str]
) -> None:
    for number in range(20):
        content = dicom(ramp(number, 4095), PatientID=ids[number % 2])
        xrays.write(f"{('NORMAL', 'PNEUMONIA')[number % 2]}/{number}.dcm", content)

    assert "has 1 patient: none for" in xrays.refusal()
    note = "DICOM headers have the same PatientID; if the ID is a placeholder"
    assert note in xrays.index().warnings[0]
    each_file = xrays.index(split={"group_regex": "(.+)"}).images
    assert split_by_patient(each_file, SplitSettings()).count("val_b")


def code_of(meaning: str) -> Dataset:
    code = Dataset()
    code.CodeMeaning = meaning
    return code


@pytest.mark.parametrize(
    "header",
    [
        {"ViewPosition": "LL"},
        {"Modality": "CT"},
        {"ViewPosition": "LATERAL"},
        {"SeriesDescription": "Thorax lat."},
        {"PatientOrientation": ["A", "F"]},
        {"ViewCodeSequence": [code_of("left lateral")]},
    ],
)
def test_lateral_views_and_ct_are_noted_by_their_headers(
    xrays: DataFolder, header: dict[str, Any]
) -> None:
    frontal: dict[str, Any] = {
        "Modality": "DX",
        "SeriesDescription": "Chest PA and lateral",
        "PatientOrientation": ["L", "F"],
        "ViewCodeSequence": [code_of("postero-anterior")],
    }
    for name in ("NORMAL", "PNEUMONIA"):
        for number, attributes in enumerate((frontal, header)):
            content = dicom(ramp(number, 4095), PatientID=f"{name}{number}", **attributes)
            xrays.write(f"{name}/{name}{number}.dcm", content)

    notes = " ".join(xrays.index().warnings)

    assert "2 of 4 images are lateral" in notes
    assert "(NORMAL/NORMAL1.dcm, PNEUMONIA/PNEUMONIA1.dcm)" in notes


@pytest.fixture
def hospital(xrays: DataFolder) -> DataFolder:
    """Five patients of each class with two images each, as scanners name them."""
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        for patient, suffix in enumerate((".2.840", ".IMA", ".img", ".raw", ".dcm.1")):
            for view, file in enumerate((f"IM00000{patient}", f"{patient}{suffix}")):
                levels = ramp(view, 1000 + 100 * patient + label)
                content = dicom(levels, PatientID=f"{name}{patient}")
                xrays.write(f"{name}/{file}", content if view else content[132:])
    xrays.write("NORMAL/DICOMDIR", dicom(None))
    xrays.write("NORMAL/begins_like_dicom.raw", b"\x02\0\x02\0" * 99)
    return xrays


def test_headers_name_patients_an_expression_or_a_table_overrides_them(
    hospital: DataFolder,
) -> None:
    index = hospital.index()
    by_expression = hospital.index(split={"group_regex": "(.+)/"})
    files = [image.file for image in index.images]
    hospital.table("file,patient", *(f"{file},p{number}" for number, file in enumerate(files)))
    by_table = hospital.index()

    assert len(index.images) == 20
    assert len({*index.images.patients}) == 10
    assert index.images[0].patient == f"dicom:{hashlib.sha256(b'NORMAL0').hexdigest()[:12]}"
    ignored = "files without an image suffix are ignored: 1 .raw, 1 no suffix"
    assert index.warnings == (f"{hospital}: {ignored}",)
    assert {*by_expression.images.patients} == {"NORMAL", "PNEUMONIA"}
    assert [*by_table.images.patients] == [f"p{n}" for n in range(len(files))]


def test_missing_pydicom_is_named(hospital: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)

    assert "pip install 'xraytune[dicom]'" in hospital.refusal(MachineError)
