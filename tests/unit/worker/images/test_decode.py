"""Every kind of picture becomes the right pixels, or the right verdict."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.unit.worker.images.pictures import UNDO, encoded, fashion, png_header, scene
from worker.images.decode import Decoded, DecodeSpec, Undecodable, decode

SPEC = DecodeSpec(64, thumbnail=0)


def verdict(data: bytes, spec: DecodeSpec = SPEC) -> str:
    with pytest.raises(Undecodable) as caught:
        decode(data, spec)
    return caught.value.verdict


def difference(one: Decoded, other: Decoded) -> float:
    return float(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_gives_the_same_picture(kind: str) -> None:
    decoded = decode(encoded(scene(), kind), SPEC)

    assert decoded.pixels.shape == (64, 64, 3)
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width, decoded.height) == (120, 180)
    assert difference(decoded, decode(encoded(scene()), SPEC)) < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_set_upright(orientation: int, kind: str) -> None:
    image = scene()
    turned = image.transpose(UNDO[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[0x0112] = orientation

    decoded = decode(encoded(turned, kind, exif=exif.tobytes()), SPEC)

    assert (decoded.width, decoded.height) == (120, 180)
    assert difference(decoded, decode(encoded(image), SPEC)) < 6


def test_tiff_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = scene().transpose(Image.Transpose.ROTATE_90)

    decoded = decode(encoded(turned, "TIFF", exif=exif), SPEC)

    assert difference(decoded, decode(encoded(scene()), SPEC)) < 3


def test_broken_exif_counts_as_none() -> None:
    data = encoded(scene(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00\x01")

    assert decode(data, SPEC).width == 120


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_shows_white(mode: str) -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    if mode == "P":
        image = Image.new("P", (40, 40), 1)
        image.putpalette([0, 0, 0, 255, 0, 0])
        data = encoded(image, "PNG", transparency=1)
    elif mode == "PA":
        data = encoded(clear, "GIF")
    else:
        data = encoded(clear.convert(mode))

    assert decode(data, SPEC).pixels.min() == 255


def test_half_transparent_black_is_grey() -> None:
    data = encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 128)))

    assert abs(int(decode(data, SPEC).pixels[10, 10, 0]) - 127) <= 1


@pytest.mark.parametrize("colour", [{"transparency": (255, 0, 0)}])
def test_a_colour_declared_transparent_is_white(colour: dict[str, object]) -> None:
    data = encoded(Image.new("RGB", (300, 300), (255, 0, 0)), "PNG", **colour)

    assert decode(data, SPEC).pixels.min() == 255


def test_sixteen_bit_grey_is_scaled() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None, :].repeat(64, 0)

    pixels = decode(encoded(Image.fromarray(ramp)), SPEC).pixels

    assert np.abs(pixels[32, :, 0].astype(int) - np.linspace(0, 255, 64)).max() <= 2


def test_floats_are_scaled_by_their_own_range() -> None:
    ramp = np.linspace(-3, 5, 64, dtype=np.float32)[None, :].repeat(64, 0)
    ramp[0, 0] = np.inf

    pixels = decode(encoded(Image.fromarray(ramp), "TIFF"), SPEC).pixels

    assert pixels[32, 0, 0] < 3
    assert pixels[32, -1, 0] > 250


def test_bilevel_palette_and_cmyk() -> None:
    assert set(np.unique(decode(encoded(Image.new("1", (64, 64), 1)), SPEC).pixels)) == {255}
    palette = decode(encoded(scene().quantize(64)), SPEC)
    assert difference(palette, decode(encoded(scene()), SPEC)) < 12
    cmyk = decode(encoded(scene().convert("CMYK"), "JPEG"), SPEC)
    assert difference(cmyk, decode(encoded(scene()), SPEC)) < 8
    broken = encoded(scene().convert("CMYK"), "JPEG", icc_profile=b"not a profile")
    assert difference(decode(broken, SPEC), cmyk) == 0


def test_lab_is_converted() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(scene(), srgb, lab, outputMode="LAB")
    assert image is not None

    decoded = decode(encoded(image, "TIFF"), SPEC)

    assert difference(decoded, decode(encoded(scene()), SPEC)) < 6


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert tuple(decode(data, SPEC).pixels[10, 10]) == (255, 0, 0)


# -- fitting --------------------------------------------------------------------------------------


def columns_of(pixels: NDArray[np.uint8], value: int) -> NDArray[np.bool_]:
    return np.asarray((pixels == value).all(axis=(0, 2)))


def test_pad_keeps_the_whole_picture_on_white() -> None:
    pixels = decode(encoded(Image.new("RGB", (50, 100), "black")), SPEC).pixels

    assert columns_of(pixels, 255)[:16].all()
    assert columns_of(pixels, 255)[-16:].all()
    assert columns_of(pixels, 0)[16:48].all()


def test_crop_and_stretch_leave_no_border() -> None:
    data = encoded(Image.new("RGB", (50, 100), "black"))

    assert decode(data, DecodeSpec(64, "crop", thumbnail=0)).pixels.max() == 0
    assert decode(data, DecodeSpec(64, "stretch", thumbnail=0)).pixels.max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_odd_sizes_decode(size: tuple[int, int], resize: str) -> None:
    spec = DecodeSpec(64, resize)  # type: ignore[arg-type]

    decoded = decode(encoded(Image.new("RGB", size, "teal")), spec)

    assert decoded.pixels.shape == (64, 64, 3)
    assert (decoded.width, decoded.height) == size


def test_grey_stays_grey_in_every_channel() -> None:
    pixels = decode(encoded(Image.fromarray(fashion(1)[0])), SPEC).pixels

    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("side", [64, 128, 224])
def test_reducing_while_decoding_hardly_changes_the_input(side: int) -> None:
    photo = scene(1500, 1800)
    reduced = decode(encoded(photo, "JPEG", quality=90), DecodeSpec(side, thumbnail=0))
    scale = side / 1800
    whole = photo.resize((round(1500 * scale), side), Image.Resampling.BILINEAR)
    left = (side - whole.width) // 2

    got = reduced.pixels[:, left : left + whole.width].astype(int)

    assert np.abs(got - np.asarray(whole).astype(int)).mean() < 2


def test_thumbnail_is_a_small_jpeg() -> None:
    decoded = decode(encoded(scene(800, 1200), "JPEG"), DecodeSpec(64, thumbnail=160))

    with Image.open(io.BytesIO(decoded.thumbnail)) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.size == (107, 160)


def test_a_large_enough_input_is_its_own_thumbnail() -> None:
    data = encoded(scene(800, 1200), "JPEG")
    with_one, without = decode(data, DecodeSpec(128)), decode(data, DecodeSpec(128, thumbnail=0))

    with Image.open(io.BytesIO(with_one.thumbnail)) as thumbnail:
        assert thumbnail.size == (85, 128)
    assert difference(with_one, without) < 1


def test_a_small_picture_is_not_enlarged_for_its_thumbnail() -> None:
    decoded = decode(encoded(Image.fromarray(fashion(1)[0])), DecodeSpec(64))

    with Image.open(io.BytesIO(decoded.thumbnail)) as thumbnail:
        assert thumbnail.size == (28, 28)


# -- refusals -------------------------------------------------------------------------------------

STRANGERS = {
    "html": b"<!doctype html><html><body>404</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "pdf": b"%PDF-1.7\n",
    "psd": b"8BPS\x00\x01" + b"\x00" * 20,
    "one byte": b"\xff",
    "text": b"hello",
    "ppm": b"P6 1 1 255 abc",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_other_files_are_unsupported(name: str) -> None:
    assert verdict(STRANGERS[name]) == "unsupported_format"


def test_nothing_is_corrupt() -> None:
    assert verdict(b"") == "corrupt_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("percent", range(5, 95, 5))
def test_a_picture_cut_off_is_never_half_a_picture(kind: str, percent: int) -> None:
    rng = np.random.default_rng(7)
    noisy = Image.fromarray(rng.integers(0, 256, (90, 90, 3), np.uint8))
    data = encoded(noisy, kind)

    assert verdict(data[: len(data) * percent // 100]) in {"corrupt_image", "unsupported_format"}


@pytest.mark.parametrize("percent", range(10, 95, 20))
def test_a_progressive_jpeg_cut_off_is_corrupt(percent: int) -> None:
    data = encoded(scene(400, 400), "JPEG", progressive=True)

    assert verdict(data[: len(data) * percent // 100]) == "corrupt_image"


@pytest.mark.parametrize(
    "size", [(20_001, 10), (10, 60_000), (9_459, 9_459), (7_100, 7_100), (2**31 - 1, 2**31 - 1)]
)
def test_size_is_judged_from_the_header(size: tuple[int, int]) -> None:
    assert verdict(png_header(*size)) == "too_large"


def test_bytes_are_limited() -> None:
    assert verdict(b"\xff\xd8\xff" + bytes(25 * 1024 * 1024)) == "too_large"
