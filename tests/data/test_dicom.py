"""DICOM as a radiologist's screen shows it, and the patients that its headers name."""

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.data.test_formats import FILE, encoded, grey_of, reason_of
from xraytune.base.errors import DataError, MachineError
from xraytune.data.decoding import read_grey, read_header
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_index
from xraytune.data.split import split_by_patient
from xraytune.space.settings import DataSettings, SplitSettings


def ramp(lowest: int, highest: int, kind: type[np.generic] = np.uint16) -> NDArray[Any]:
    """Levels [24, 32] that rise evenly from the top left."""
    return np.linspace(lowest, highest, 24 * 32).round().reshape(24, 32).astype(kind)


def dicom(
    pixels: NDArray[Any] | None,
    bits: int = 16,
    syntax: UID = ExplicitVRLittleEndian,
    **attributes: Any,
) -> bytes:
    """A DICOM file of these stored values.

    `attributes` add to its header, or replace what is there.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = (
        DigitalXRayImageStorageForPresentation
    )
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = pixels.dtype.itemsize * 8
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    if syntax.is_encapsulated:
        dataset["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


MONOCHROME1 = {"PhotometricInterpretation": "MONOCHROME1"}


@pytest.mark.parametrize(
    ("levels", "bits", "attributes", "is_inverted"),
    [
        (ramp(0, 65535), 16, {}, False),
        (ramp(-2048, 2047, np.int16), 12, {}, False),
        (ramp(0, 4095), 12, {"RescaleSlope": 2, "RescaleIntercept": -1000}, False),
        (ramp(0, 4095), 12, {"RescaleSlope": -1}, True),
        (ramp(0, 4095), 12, {"PhotometricInterpretation": None}, False),
        (ramp(0, 4095), 12, MONOCHROME1, True),
        (ramp(0, 4095), 12, MONOCHROME1 | {"PresentationLUTShape": "IDENTITY"}, True),
    ],
)
def test_without_a_window_all_levels_are_shown(
    levels: NDArray[Any], bits: int, attributes: dict[str, Any], is_inverted: bool
) -> None:
    """Signed values reach below zero, and the range is rescaled with the values.

    Devices write wrong shapes of the presentation LUT.
    """
    content = dicom(levels, bits, **attributes)
    expected = (levels - float(levels.min())) / (2**bits - 1) * 255

    np.testing.assert_allclose(
        grey_of(content), 255 - expected if is_inverted else expected, atol=0.51
    )
    assert read_grey(content, FILE, needed_px=8).kind == f"DICOM {bits}-bit"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000, 1000), (1500.5, 40)])
@pytest.mark.parametrize(("slope", "intercept"), [(2, -1000), (-1, 4095)])
def test_windows_follow_the_standard(
    function: str, center: float, width: float, slope: int, intercept: int
) -> None:
    """By the formulas of PS3.3, sections C.11.2.1.2.1 and C.11.2.1.3."""
    levels = ramp(0, 4095)
    window: dict[str, Any] = {"WindowCenter": center, "WindowWidth": width}
    window["VOILUTFunction"] = function

    grey = grey_of(dicom(levels, 12, RescaleSlope=slope, RescaleIntercept=intercept, **window))

    values = levels * float(slope) + intercept
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(-4 * (values - center) / width))
    elif function == "LINEAR_EXACT":
        shown = (values - center) / width + 0.5
    else:
        shown = (values - (center - 0.5)) / (width - 1) + 0.5
    np.testing.assert_allclose(grey, np.clip(shown, 0, 1) * 255, atol=0.51)


def test_odd_windows() -> None:
    """The first of several counts; no width means a placeholder, and width 1 a threshold."""
    levels = ramp(0, 4095)

    def shown(center: Any, width: Any) -> NDArray[np.int64]:
        return grey_of(dicom(levels, 12, WindowCenter=center, WindowWidth=width))

    np.testing.assert_array_equal(shown([1000, 3000], [500, 10]), shown(1000, 500))
    np.testing.assert_array_equal(shown(0, 0), grey_of(dicom(levels, 12)))
    np.testing.assert_array_equal(shown(2000, 1), np.where(levels > 1999.5, 255, 0))


def lut(entries: NDArray[Any], first: int, bits: int, *, packed: bool = False) -> Sequence:
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
    table: Sequence, expected: NDArray[np.float64], attributes: dict[str, Any]
) -> None:
    """A modality LUT replaces the rescale."""
    levels = ramp(0, 4095)

    grey = grey_of(dicom(levels, 12, VOILUTSequence=table, **attributes))

    np.testing.assert_allclose(grey, expected[levels] * 255, atol=0.51)
    if not attributes:
        rescaled = dicom(levels, 12, ModalityLUTSequence=table, RescaleSlope=2)
        np.testing.assert_allclose(grey_of(rescaled), expected[levels] * 255, atol=0.51)


def compressed(levels: NDArray[Any], kind: str, **options: object) -> bytes:
    return encapsulate([encoded(Image.fromarray(levels), kind, **options)])


def stored_as(stored: NDArray[Any], syntax: UID) -> bytes:
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
@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_show_nothing(syntax: UID, signed: bool) -> None:
    """Old devices keep overlays there."""
    levels = ramp(-2048, 2047, np.int16) if signed else ramp(0, 4095)
    overlaid = (levels & 0xFFF).view(np.uint16)
    overlaid[:, ::2] |= np.uint16(1 << 15)

    expected = (levels - float(levels.min())) / 4095 * 255
    for stored in (levels, overlaid.view(levels.dtype)):
        grey = grey_of(dicom(levels, 12, syntax, PixelData=stored_as(stored, syntax)))
        np.testing.assert_allclose(grey, expected, atol=0.51)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_at_the_high_end_are_shifted_down(syntax: UID, signed: bool) -> None:
    """HighBit is then above BitsStored, and an overlay may be in the bits below."""
    levels = ramp(-2048, 2047, np.int16) if signed else ramp(0, 4095)
    stored = levels << 4
    stored[:, ::2] |= 1

    grey = grey_of(dicom(levels, 12, syntax, HighBit=15, PixelData=stored_as(stored, syntax)))

    np.testing.assert_allclose(grey, (levels - float(levels.min())) / 4095 * 255, atol=0.51)


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
    levels[:, :6], levels[-2:], levels[10, 20] = padding, padding, padding

    grey = grey_of(dicom(levels, 12, PhotometricInterpretation=photometric, **attributes))

    shown = levels / 4095 * 255
    expected = 255 - shown if photometric == "MONOCHROME1" else shown
    expected[:, :6], expected[-2:] = 0, 0
    np.testing.assert_allclose(grey, expected, atol=1)


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
    levels: NDArray[Any], bits: int, kind: str
) -> None:
    found = read_grey(dicom(levels, bits), FILE, needed_px=8)

    assert found.kind == kind
    np.testing.assert_allclose(np.asarray(found.image).astype(int), ramp(0, 255), atol=1.01)


def test_colours_become_grey() -> None:
    levels = ramp(0, 255, np.uint8)
    colours = np.stack([levels, levels // 2, ramp(0, 9, np.uint8)], axis=-1)
    ybr = np.stack([levels, *np.full((2, 24, 32), 128, dtype=np.uint8)], axis=-1)

    expected = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey_of(dicom(colours, 8)), expected, atol=1.1)
    in_ybr = dicom(ybr, 8, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(grey_of(in_ybr), levels, atol=1)
    lossy = dicom(levels, 8, JPEGBaseline8Bit, PixelData=compressed(levels, "JPEG", quality=100))
    np.testing.assert_allclose(grey_of(lossy), levels, atol=3)


SHORT = lut(np.arange(100, dtype=np.uint16), 0, 12)
SHORT[0].LUTDescriptor = [4096, 0, 12]
GOOD = dicom(ramp(0, 4095), 12, PatientID="77", WindowCenter=2000, WindowWidth=4000)
THREE = np.stack([ramp(0, 9)] * 3, axis=-1)
FLOATS = dicom(None, Rows=8, Columns=8, BitsAllocated=32, FloatPixelData=bytes(256))
BROKEN: dict[str, tuple[bytes, str]] = {
    "a_report": (dicom(None), "it contains no image, but perhaps a report"),
    "no_pixels": (dicom(None, Rows=8, Columns=8), "is truncated or damaged"),
    "several_frames": (dicom(ramp(0, 9), 12, NumberOfFrames=3), "it contains 3 images"),
    "no_decoder": (
        dicom(ramp(0, 9), 12, JPEGLSLossless, PixelData=encapsulate([b"pixels"])),
        "no decoder of JPEG-LS Lossless Image Compression is installed; decompress it",
    ),
    "floats": (FLOATS, "its pixels are floating-point numbers"),
    "perhaps_a_negative": (
        dicom(ramp(0, 9), 12, PresentationLUTShape="INVERSE"),
        "it may be a negative, since MONOCHROME2 contradicts PresentationLUTShape INVERSE",
    ),
    "compressed_bits_at_the_high_end": (
        dicom(
            ramp(0, 9),
            12,
            JPEG2000Lossless,
            HighBit=15,
            PixelData=stored_as(ramp(0, 9), JPEG2000Lossless),
        ),
        "HighBit is above BitsStored in compressed pixels",
    ),
    "palette": (
        dicom(ramp(0, 9), 12, PhotometricInterpretation="PALETTE COLOR"),
        "the colour model PALETTE COLOR",
    ),
    "grey_with_three_values": (dicom(THREE, 12, PhotometricInterpretation="MONOCHROME2"), "MONO"),
    "cut_in_its_header": (GOOD[:400], "is truncated or damaged"),
    "cut_in_its_pixels": (GOOD[:-1000], "is truncated or damaged"),
    "cut_at_its_start": (GOOD[:141], "is truncated or damaged"),
    "a_short_table": (dicom(ramp(0, 4095), 12, VOILUTSequence=SHORT), "is truncated or damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(name: str) -> None:
    content, reason = BROKEN[name]

    assert reason in reason_of(content)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("start", [b"\x02\x00\x00\x00UL", b"\x08\x00\x16\x00"])
def test_a_file_without_preamble_is_read(syntax: UID, start: bytes) -> None:
    """From its meta information, or without that."""
    whole = dicom(ramp(0, 4095), 12, syntax, PatientID="77")

    bare = whole[whole.index(start) :]

    header = {"width_px": 32, "height_px": 24, "patient_id": "77", "view": ""}
    assert read_header(bare, FILE) == read_header(whole, FILE) == header
    np.testing.assert_array_equal(grey_of(bare), grey_of(whole))


def index_of(root: Path, group_regex: str | None = None) -> ImageIndex:
    return read_index(DataSettings(path=root, split=SplitSettings(group_regex=group_regex)))


def write(root: Path, name: str, file: str, content: bytes) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / file).write_bytes(content)


@pytest.mark.parametrize("ids", [("ANONYMOUS", "ANONYMOUS"), ("CLASS A", "CLASS B")])
def test_a_placeholder_for_all_patients_is_named_and_can_be_overridden(
    tmp_path: Path, ids: tuple[str, str]
) -> None:
    for number in range(20):
        content = dicom(ramp(number, 4095), 12, PatientID=ids[number % 2])
        write(tmp_path, ("NORMAL", "PNEUMONIA")[number % 2], f"{number}.dcm", content)

    index = index_of(tmp_path)
    with pytest.raises(DataError, match="has 1 patient: none for"):
        split_by_patient(index.images, SplitSettings())

    assert "DICOM headers have the same PatientID; if the ID is a placeholder" in index.warnings[0]
    each_file = index_of(tmp_path, "(.+)").images
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
    tmp_path: Path, header: dict[str, Any]
) -> None:
    for name in ("NORMAL", "PNEUMONIA"):
        frontal: dict[str, Any] = {
            "Modality": "DX",
            "SeriesDescription": "Chest PA and lateral",
            "PatientOrientation": ["L", "F"],
            "ViewCodeSequence": [code_of("postero-anterior")],
        }
        for number, attributes in enumerate((frontal, header)):
            content = dicom(ramp(number, 4095), 12, PatientID=f"{name}{number}", **attributes)
            write(tmp_path, name, f"{name}{number}.dcm", content)

    notes = " ".join(index_of(tmp_path).warnings)

    assert "2 of 4 images are lateral views or CT" in notes
    assert "(NORMAL/NORMAL1.dcm, PNEUMONIA/PNEUMONIA1.dcm)" in notes


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Five patients of each class with two images each, as scanners name them."""
    suffixes = (".2.840", ".IMA", ".img", ".raw", ".dcm.1")
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        for patient in range(5):
            for view, file in enumerate((f"IM00000{patient}", f"{patient}{suffixes[patient]}")):
                levels = ramp(view, 1000 + 100 * patient + label)
                content = dicom(levels, 12, PatientID=f"{name}{patient}")
                write(tmp_path, name, file, content if view else content[132:])
    (tmp_path / "NORMAL" / "DICOMDIR").write_bytes(dicom(None))
    (tmp_path / "NORMAL" / "begins_like_dicom.raw").write_bytes(b"\x02\0\x02\0" * 99)
    return tmp_path


def test_headers_name_patients_an_expression_or_a_table_overrides_them(hospital: Path) -> None:
    index = index_of(hospital)
    by_expression = index_of(hospital, "(.+)/")
    files = [image.file for image in index.images]
    rows = [f"{file},p{number}" for number, file in enumerate(files)]
    (hospital / "patients.csv").write_text("\n".join(["file,patient", *rows]), "utf-8")
    by_table = index_of(hospital)

    assert len(index.images) == 20
    assert len({image.patient for image in index.images}) == 10
    assert index.images[0].patient == f"dicom:{hashlib.sha256(b'NORMAL0').hexdigest()[:12]}"
    assert index.warnings == (
        f"{hospital}: files without an image suffix are ignored: 1 .raw, 1 no suffix",
    )
    assert {image.patient for image in by_expression.images} == {"NORMAL", "PNEUMONIA"}
    assert [image.patient for image in by_table.images] == [f"p{n}" for n in range(len(files))]


def test_missing_pydicom_is_named(hospital: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)

    with pytest.raises(MachineError, match=r"pip install 'xraytune\[dicom\]'"):
        index_of(hospital)
