"""Samples of more than 8 bits: each image comes out in its own range, or is refused by name."""

import struct
import zlib

import numpy as np
import pytest
from conftest import call_script, make_class_folders
from PIL import Image

from appearance.cli import InputError
from appearance.data.images import load_rgb

RAMP = np.tile(np.linspace(0, 1, 256), (32, 1))  # (32, 256) from black to white
EIGHT_BITS = (255 * RAMP).round()


def save_rgb_of_16_bits(path, pixels: np.ndarray) -> None:
    """A PNG file of (H, W, 3) uint16, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(
    ("suffix", "kind", "white"),
    [
        *[(".tiff", "float32", white) for white in (1, 255)],
        *[(".tiff", "int32", white) for white in (255, 65_535)],
        *[(suffix, "uint16", 65_535) for suffix in (".tiff", ".png")],
    ],
)
def test_grey_of_any_depth_comes_out_in_its_range(tmp_path, suffix, kind, white):
    path = tmp_path / f"ramp{suffix}"
    Image.fromarray((white * RAMP).astype(kind)).save(path)
    found = np.asarray(load_rgb(path), int)
    assert found.shape == (32, 256, 3)
    assert np.abs(found - EIGHT_BITS[..., None]).max() <= 1


@pytest.mark.parametrize(
    ("suffix", "kind", "white", "words"),
    [
        *[(suffix, "uint16", 4095, "a maximum of only 4,095") for suffix in (".tiff", ".png")],
        *[(suffix, "uint16", 16383, "a maximum of only 16,383") for suffix in (".tiff", ".png")],
        (".tiff", "int32", 4095, "a maximum of only 4,095"),
        (".tiff", "int32", 10**9, "to 1,000,000,000"),
        (".tiff", "int32", -9, "from -9"),
        (".tiff", "float32", 4095, "from 0 to 4095"),
        (".tiff", "float32", -1, "from -1"),
        (".tiff", "float32", np.nan, "nan"),
    ],
)
def test_a_range_that_cannot_be_known_is_refused_by_name(tmp_path, suffix, kind, white, words):
    path = tmp_path / f"ramp{suffix}"
    Image.fromarray((white * RAMP).astype(kind)).save(path)
    with pytest.raises(InputError, match="8 bits") as refused:
        load_rgb(path)
    assert str(path) in str(refused.value)
    assert words in str(refused.value)


def test_a_black_image_is_black_at_any_depth(tmp_path):
    for kind in ("uint16", "int32", "float32"):
        Image.fromarray(np.zeros((4, 4), kind)).save(tmp_path / "black.tiff")
        assert not np.asarray(load_rgb(tmp_path / "black.tiff")).any()


def test_colours_of_16_bits(tmp_path):
    path = tmp_path / "ramp.png"
    save_rgb_of_16_bits(path, np.repeat((65_535 * RAMP)[..., None], 3, 2))
    assert np.abs(np.asarray(load_rgb(path), int) - EIGHT_BITS[..., None]).max() <= 1
    save_rgb_of_16_bits(path, np.repeat((4095 * RAMP)[..., None], 3, 2))
    with pytest.raises(InputError, match="only 3,840: 12, 14 or 16 bits"):
        load_rgb(path)


def test_dark_images_of_8_bits_stay_as_they_are(tmp_path):
    for name in ("dark.bmp", "dark.png", "dark.tiff"):
        Image.new("RGB", (16, 16), (3, 2, 1)).save(tmp_path / name)
        assert load_rgb(tmp_path / name).getpixel((0, 0)) == (3, 2, 1)


def test_check_names_blank_images(tmp_path):
    """A few one by one, many in one line; a dark picture is no blank one."""
    data = make_class_folders(tmp_path / "people", images=8)
    Image.new("L", (32, 64), 7).save(data / "person1" / "c1_900.png")
    noise = np.random.default_rng(0).integers(0, 12, (64, 32), dtype=np.uint8)
    Image.fromarray(noise).save(data / "person1" / "c1_901.png")
    shown = call_script("datasets.py", "check", data, cwd=tmp_path).stdout
    assert f"{data}/person1/c1_900.png: blank: all pixels have nearly the same colour" in shown
    assert "c1_901.png: blank" not in shown
    for number in range(6):
        Image.new("RGB", (32, 64), (number, 0, 0)).save(data / "person2" / f"c1_90{number}.jpg")
    shown = call_script("datasets.py", "check", data, cwd=tmp_path).stdout
    assert f"7 images are blank ({data}/person1/c1_900.png, " in shown
    assert "blank: all" not in shown
