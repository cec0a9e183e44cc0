"""DICOM as a radiologist's screen shows it, and the patients that its headers name."""

import hashlib
import io
import sys
from collections.abc import Callable
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

from tests.data.test_formats import FILE, grey_of, reason_of
from xraytune.base.errors import DataError, MachineError
from xraytune.data.formats import read_grey, read_header
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_index
from xraytune.data.pixels import decode_images
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
    """A DICOM file of these stored values; `attributes` add to its header, or replace what is there."""
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


@pytest.mark.parametrize(
    ("levels", "bits", "attributes", "is_inverted"),
    [
        (ramp(0, 255, np.uint8), 8, {}, False),
        (ramp(0, 1023), 10, {}, False),
        (ramp(0, 4095), 12, {}, False),
        (ramp(0, 65535), 16, {}, False),
        (ramp(-2048, 2047, np.int16), 12, {}, False),
        (ramp(0, 4095), 12, {"RescaleSlope": 2, "RescaleIntercept": -1000}, False),
        (ramp(0, 4095), 12, {"RescaleSlope": 0.5, "RescaleIntercept": 3}, False),
        (ramp(0, 4095), 12, {"RescaleSlope": -1, "RescaleIntercept": 4095}, True),
        (ramp(0, 4095), 12, {"PhotometricInterpretation": "MONOCHROME1"}, True),
        (ramp(0, 4095), 12, {"PhotometricInterpretation": None}, False),
        *(
            (
                ramp(0, 4095),
                12,
                {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": shape},
                True,
            )
            for shape in ("INVERSE", "IDENTITY")
        ),
        (ramp(0, 4095), 12, {"SmallestImagePixelValue": 1000}, False),
        (ramp(0, 4095), 12, {"RescaleSlope": -1}, True),
        (ramp(0, 4095), 12, {"RescaleIntercept": -1024}, False),
    ],
)
def test_without_a_window_all_levels_are_shown(
    levels: NDArray[Any], bits: int, attributes: dict[str, Any], is_inverted: bool
) -> None:
    """Signed values reach below zero, and the range is rescaled with the values.

    Without a colour model large values are bright, as in viewers; devices write wrong shapes of the
    presentation LUT.
    """
    content = dicom(levels, bits, **attributes)
    expected = (levels - float(levels.min())) / (2**bits - 1) * 255

    np.testing.assert_allclose(
        grey_of(content), 255 - expected if is_inverted else expected, atol=0.51
    )
    assert read_grey(content, FILE, needed_px=8).kind == f"DICOM {bits}-bit"


@pytest.mark.parametrize("function", ["", "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000, 1000), (100, 400), (1500.5, 40)])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1000), (-1, 4095)])
def test_windows_follow_the_standard(
    function: str, center: float, width: float, slope: int, intercept: int
) -> None:
    """By the formulas of PS3.3, sections C.11.2.1.2.1 and C.11.2.1.3."""
    levels = ramp(0, 4095)
    window: dict[str, Any] = {"WindowCenter": center, "WindowWidth": width}
    if function:
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
    """The first of several counts, one of no width is a placeholder, and one of width 1 is a threshold."""
    levels = ramp(0, 4095)

    def shown(center: Any, width: Any) -> NDArray[np.int64]:
        return grey_of(dicom(levels, 12, WindowCenter=center, WindowWidth=width))

    np.testing.assert_array_equal(shown([1000, 3000], [500, 10]), shown(1000, 500))
    np.testing.assert_array_equal(shown(0, 0), grey_of(dicom(levels, 12)))
    np.testing.assert_array_equal(shown(2000, 1), np.where(levels > 1999.5, 255, 0))


def lut(entries: NDArray[np.uint16], first: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries.tolist()
    for name in ("LUTDescriptor", "LUTData"):
        item[name].VR = "SS" if name == "LUTDescriptor" and first < 0 else "US"
    return Sequence([item])


def words(
    entries: NDArray[np.uint16], first: int, bits: int, kind: type[np.generic] = np.uint16
) -> Sequence:
    """A table whose entries are bytes: words, or two entries of 8 bits in each."""
    (item,) = table = lut(entries, first, bits)
    del item.LUTData
    item.add_new("LUTData", "OW", entries.astype(kind).tobytes())
    return table


SQUARES = (np.arange(4096) ** 2 // 4096).astype(np.uint16)
SIGNED_ENTRIES = lut(np.arange(4096, dtype=np.uint16), 0, 16)
SIGNED_ENTRIES[0].add_new("LUTData", "SS", (np.arange(4096) * 16).astype(np.int16).tolist())


@pytest.mark.parametrize(
    ("table", "expected", "attributes"),
    [
        (lut(SQUARES // 16, 0, 8), SQUARES // 16 / 255, {}),
        (words(SQUARES // 16, 0, 8), SQUARES // 16 / 255, {}),
        (words(SQUARES // 16, 0, 8, np.uint8), SQUARES // 16 / 255, {}),
        (words(SQUARES, 0, 12), SQUARES / 4095, {}),
        (lut(SQUARES, 0, 16), SQUARES / 4095, {}),
        (
            lut(SQUARES, 2**16 - 1024, 12),
            SQUARES / 4095,
            {"RescaleSlope": 1, "RescaleIntercept": -1024},
        ),
        (lut(SQUARES, 0, 12), SQUARES / 4095, {"WindowCenter": 5, "WindowWidth": 1}),
        (SIGNED_ENTRIES, np.arange(4096) * 16 / 65535, {}),
    ],
    ids=[
        *(
            "8 bits",
            "8 bits in words",
            "8 bits, packed",
            "words",
            "16 bits for 12",
            "negative first",
        ),
        *("before a window", "signed entries"),
    ],
)
@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
def test_tables_as_devices_write_them_are_applied(
    name: str, table: Sequence, expected: NDArray[np.float64], attributes: dict[str, Any]
) -> None:
    levels = ramp(0, 4095)
    if name == "ModalityLUTSequence" and attributes:  # it replaces the rescale
        table = lut(SQUARES, 0, 12)
        attributes = {"RescaleSlope": 2, "RescaleIntercept": 9}

    grey = grey_of(dicom(levels, 12, **(attributes | {name: table})))

    np.testing.assert_allclose(grey, expected[levels] * 255, atol=0.51)


def overlaid(levels: NDArray[Any]) -> NDArray[Any]:
    """Levels with an overlay in their highest bit, in every second column."""
    stored = levels.copy()
    stored[:, ::2] |= np.array(1 << 15, dtype=np.uint16).astype(stored.dtype)
    return stored


def compressed(stored: NDArray[Any], syntax: UID) -> dict[str, Any]:
    if syntax == JPEG2000Lossless:
        return {"PixelData": encoded(stored.view(np.uint16), "JPEG2000", no_jp2=True)}
    if syntax == RLELossless:
        dataset = dcmread(io.BytesIO(dicom(stored, 16)))
        dataset.compress(RLELossless)
        return {"PixelData": dataset.PixelData}
    return {
        "PixelData": stored.astype(
            stored.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
        ).tobytes()
    }


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEG2000Lossless,
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_show_nothing(syntax: UID, signed: bool) -> None:
    levels = ramp(-2048, 2047, np.int16) if signed else ramp(0, 4095)
    plain, overlay = (compressed(stored, syntax) for stored in (levels, overlaid(levels & 0xFFF)))

    expected = (levels - float(levels.min())) / 4095 * 255
    np.testing.assert_allclose(grey_of(dicom(levels, 12, syntax, **plain)), expected, atol=0.51)
    np.testing.assert_allclose(grey_of(dicom(levels, 12, syntax, **overlay)), expected, atol=0.51)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("padding", "attributes"),
    [
        (0, {"PixelPaddingValue": 0}),
        (4095, {"PixelPaddingValue": 4095}),
        (4000, {"PixelPaddingValue": 3990, "PixelPaddingRangeLimit": 4010}),
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


@pytest.mark.parametrize("vr", ["SS", "US"])
def test_padding_does_not_count_as_content(vr: str) -> None:
    """Its sign may be misread: -2000 is 63536 without one."""
    levels = ramp(0, 4095, np.int16)
    levels[:, :6] = -2000
    dataset = dcmread(io.BytesIO(dicom(levels, 16)))
    dataset.add_new("PixelPaddingValue", vr, -2000 if vr == "SS" else 63536)
    stream = io.BytesIO()
    dataset.save_as(stream)

    np.testing.assert_allclose(
        grey_of(stream.getvalue()), np.maximum(levels, 0) / 4095 * 255, atol=0.51
    )


@pytest.mark.parametrize(
    ("levels", "bits", "kind"),
    [
        (ramp(0, 4095), 16, "DICOM 16-bit with 12-bit content"),
        (ramp(0, 4095), 14, "DICOM 14-bit with 12-bit content"),
        (ramp(0, 255), 12, "DICOM 12-bit with 8-bit content"),
        (ramp(0, 4095, np.uint32), 32, "DICOM 32-bit with 12-bit content"),
        (ramp(-1024, 3071, np.int16), 16, "DICOM 16-bit with 12-bit content"),
        (ramp(0, 32767, np.int16), 16, "DICOM 16-bit"),
        (np.stack([ramp(0, 255)] * 3, axis=-1), 16, "DICOM 16-bit with 8-bit content"),
    ],
)
def test_without_a_window_the_depth_of_the_content_counts(
    levels: NDArray[Any], bits: int, kind: str
) -> None:
    found = read_grey(dicom(levels, bits), FILE, needed_px=8)

    grey = np.asarray(found.image).astype(int)
    assert (grey.min(), grey.max(), found.kind) == (0, 255, kind)
    np.testing.assert_allclose(grey, ramp(0, 255), atol=1.01)
    window: dict[str, Any] = (
        {} if levels.ndim == 3 else {"WindowCenter": 30000, "WindowWidth": 60000}
    )
    if window and not kind.endswith("32-bit with 12-bit content"):
        assert (
            read_grey(dicom(levels, bits, **window), FILE, needed_px=8).kind == f"DICOM {bits}-bit"
        )


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (16, np.uint16)])
def test_colours_become_grey(bits: int, kind: type[np.generic]) -> None:
    colours = np.stack(
        [ramp(0, 2**bits - 1, kind), ramp(0, 2**bits - 1, kind) // 2, ramp(0, 9, kind)], axis=-1
    )
    ybr = np.stack([ramp(0, 255, np.uint8), *np.full((2, 24, 32), 128, dtype=np.uint8)], axis=-1)

    expected = colours @ np.array([0.299, 0.587, 0.114]) / (2**bits - 1) * 255
    np.testing.assert_allclose(grey_of(dicom(colours, bits)), expected, atol=1.1)
    planes: dict[str, Any] = {
        "PixelData": colours.transpose(2, 0, 1).tobytes(),
        "PlanarConfiguration": 1,
    }
    np.testing.assert_allclose(grey_of(dicom(colours, bits, **planes)), expected, atol=1.1)
    np.testing.assert_allclose(
        grey_of(dicom(ybr, 8, PhotometricInterpretation="YBR_FULL")), ybr[..., 0], atol=1
    )


def encoded(levels: NDArray[Any], kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, kind, **options)
    return encapsulate([stream.getvalue()])


def test_compressed_dicom_is_read() -> None:
    levels = ramp(0, 255, np.uint8)
    baseline = dicom(levels, 8, JPEGBaseline8Bit, PixelData=encoded(levels, "JPEG", quality=100))

    np.testing.assert_allclose(grey_of(baseline), levels, atol=3)


SHORT = lut(np.arange(100, dtype=np.uint16), 0, 12)
SHORT[0].LUTDescriptor = [4096, 0, 12]
GOOD = dicom(ramp(0, 4095), 12, PatientID="77", WindowCenter=2000, WindowWidth=4000)
BROKEN: dict[str, tuple[bytes, str]] = {
    "a_report": (dicom(None), "this DICOM file contains no pixels, or is truncated"),
    "no_pixels": (
        dicom(None, Rows=8, Columns=8),
        "this DICOM file contains no pixels, or is truncated",
    ),
    "several_frames": (
        dicom(ramp(0, 9), 12, NumberOfFrames=3),
        "this DICOM file contains 3 frames, and it is",
    ),
    "no_decoder": (
        dicom(ramp(0, 9), 12, JPEGLSLossless, PixelData=encapsulate([b"pixels"])),
        "its pixels are",
    ),
    "unknown_syntax": (
        dicom(ramp(0, 9), 12, PixelData=bytes(8)).replace(
            b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"
        ),
        "its pixels are compressed as 1.2.840.10008.9.9.9, for which no decoder is installed",
    ),
    "palette": (
        dicom(ramp(0, 9), 12, PhotometricInterpretation="PALETTE COLOR"),
        "the colour model PALETTE COLOR of",
    ),
    "cut_in_its_header": (GOOD[:400], "this DICOM file contains no pixels, or is truncated"),
    "cut_in_its_pixels": (GOOD[:-1000], "the DICOM pixels are truncated or damaged"),
    "cut_at_its_start": (GOOD[:141], "the DICOM header is truncated or damaged"),
    "unknown_kind_of_value": (
        GOOD.replace(b"\x28\x00\x04\x00CS", b"\x28\x00\x04\x00ES"),
        "the DICOM pixels are",
    ),
    "grey_with_three_values": (
        dicom(np.stack([ramp(0, 9)] * 3, axis=-1), 12, PhotometricInterpretation="MONOCHROME2"),
        "the colour model MONOCHROME2 of this DICOM file, with 3 values per pixel",
    ),
    "a_short_table": (
        dicom(ramp(0, 9), 12, VOILUTSequence=SHORT),
        "the DICOM pixels are truncated or damaged",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_for_a_clear_reason(name: str) -> None:
    content, reason = BROKEN[name]

    assert reason in reason_of(content)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("start", [b"\x02\x00\x00\x00UL", b"\x08\x00\x16\x00"])
def test_a_file_without_preamble_is_read(syntax: UID, start: bytes) -> None:
    """From its meta information, or without that; compressed pixels need it."""
    whole = dicom(ramp(0, 4095), 12, syntax, PatientID="77")
    compressed = dicom(ramp(0, 9), 8, RLELossless, PixelData=encapsulate([b"pixels"]))

    bare = whole[whole.index(start) :]

    header = {"width_px": 32, "height_px": 24, "patient_id": "77", "view": ""}
    assert read_header(bare, FILE) == read_header(whole, FILE) == header
    np.testing.assert_array_equal(grey_of(bare), grey_of(whole))
    assert "does not say how the pixels are stored" in reason_of(
        compressed[compressed.index(b"\x08\x00\x16\x00") :]
    )


@pytest.mark.parametrize("ids", [("ANONYMOUS", "ANONYMOUS"), ("CLASS A", "CLASS B")])
def test_a_placeholder_for_all_patients_is_named_and_can_be_overridden(
    tmp_path: Path, ids: tuple[str, str]
) -> None:
    for number, (name, patient_id) in enumerate(
        zip(("NORMAL", "PNEUMONIA") * 10, ids * 10, strict=True)
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{number}.dcm").write_bytes(
            dicom(ramp(number, 4095), 12, PatientID=patient_id)
        )
    each_file = SplitSettings(group_regex="(.+)")

    index = index_of(tmp_path)
    with pytest.raises(
        DataError, match=f"PatientID in their DICOM headers: {', '.join(sorted({*ids}))}\n"
    ) as refusal:
        split_by_patient(index.images, SplitSettings())

    assert "'(.+)' makes each file a patient of its own" in str(refusal.value)
    assert "DICOM headers have the same PatientID; if the ID is a placeholder" in index.warnings[0]
    assert split_by_patient(
        read_index(DataSettings(path=tmp_path, split=each_file)).images, each_file
    ).count("val_b")


@pytest.mark.parametrize(
    "header", [{"ViewPosition": "LL"}, {"Modality": "CT"}, {"ViewPosition": "LATERAL"}]
)
def test_lateral_views_and_ct_are_noted_by_their_headers(
    tmp_path: Path, header: dict[str, Any]
) -> None:
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / name).mkdir()
        frontal: dict[str, Any] = {"ViewPosition": "PA", "Modality": "DX"}
        for number, attributes in enumerate((frontal, header)):
            content = dicom(ramp(number, 4095), 12, PatientID=f"{name}{number}", **attributes)
            (tmp_path / name / f"{name}{number}.dcm").write_bytes(content)

    notes = " ".join(index_of(tmp_path).warnings)

    assert "2 of 4 images are lateral views or CT" in notes
    assert "(NORMAL/NORMAL1.dcm, PNEUMONIA/PNEUMONIA1.dcm)" in notes


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Five patients of each class with two images each, as a scanner names them, one of them without a preamble."""
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        for patient in range(5):
            for view, file in enumerate(
                ("IM000001", f"1.2.840.{patient}", "c.dcm")[patient % 2 :][:2]
            ):
                folder = tmp_path / name / f"study{patient}"
                folder.mkdir(parents=True, exist_ok=True)
                levels = ramp(view, 1000 + 100 * patient + label)
                content = dicom(levels, 12, PatientID=f"{name}{patient}")
                (folder / file).write_bytes(content if view else content[132:])
    (tmp_path / "NORMAL" / "DICOMDIR").write_bytes(dicom(None))
    (tmp_path / "NORMAL" / "README").write_text("x", encoding="utf-8")
    return tmp_path


def index_of(root: Path) -> ImageIndex:
    return read_index(DataSettings(path=root))


@pytest.mark.slow
def test_header_patients_override_file_names(hospital: Path) -> None:
    index = index_of(hospital)

    assert len(index.images) == 20
    assert len({image.patient for image in index.images}) == 10
    assert index.images[0].patient == f"dicom:{hashlib.sha256(b'NORMAL0').hexdigest()[:12]}"
    assert "NORMAL" not in "".join(image.patient for image in index.images)
    assert index.warnings == (
        f"{hospital}: files without an image suffix are ignored: 2 no suffix",
    )


@pytest.mark.slow
def test_an_expression_overrides_headers_and_a_table_overrides_both(hospital: Path) -> None:
    """One file has PNG content, which counts."""
    Image.fromarray(ramp(0, 200, np.uint8)).save(hospital / "NORMAL/study1/c.dcm", "PNG")
    by_expression = read_index(
        DataSettings(path=hospital, split=SplitSettings(group_regex="(.+)/"))
    )
    files = [image.file for image in by_expression.images]
    rows = [f"{file},p{number}" for number, file in enumerate(files)]
    (hospital / "patients.csv").write_text("\n".join(["file,patient", *rows]), encoding="utf-8")

    by_table = index_of(hospital)

    assert [image.patient for image in by_expression.images] == [
        file.rpartition("/")[0] for file in files
    ]
    assert [image.patient for image in by_table.images] == [
        f"p{number}" for number in range(len(files))
    ]
    assert all(isinstance(image, np.ndarray) for image in decode_images(hospital, files, 16))


@pytest.mark.parametrize(
    "use", [index_of, lambda root: list(decode_images(root, ["NORMAL/study0/IM000001"], 16))]
)
def test_missing_pydicom_is_named(
    hospital: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], object]
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)

    with pytest.raises(MachineError, match=r"pip install 'xraytune\[dicom\]'"):
        use(hospital)
