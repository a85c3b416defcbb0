"""Read an image file of any format as upright 8-bit RGB."""

import os
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from appearance.cli import InputError
from appearance.reading import size_of

ORIENTATION = 0x0112  # EXIF tag; 1 is upright
LARGEST_AREA = 50_000_000  # pixels; a small file may claim a size that would fill the memory
LARGEST_FILE = 8 * LARGEST_AREA + (1 << 20)  # bytes: LARGEST_AREA pixels of four 16-bit samples
RAW_16_BITS = re.compile(r";16[BLN]")  # Pillow's names for 16-bit samples in big, little or native byte order
SAVE_ANEW = "convert it to 8 bits, black 0 and white 255"
QUARTER = 1 << 14  # a 16-bit image with a lower maximum may really have 12 or 14 bits, which files do not say


def load_rgb(path: str | os.PathLike, shrink: int = 1) -> Image.Image:
    """Read an image file in any mode (grey, palette, RGBA, CMYK, 16-bit, EXIF-rotated) as an upright RGB image.

    Animated files give their first frame. Samples of more than 8 bits are scaled, not clipped (`_eight_bits`).

    Args:
        shrink: 2, 4 or 8: divide width and height by this (rounding up). For JPEG files this takes a third of the time,
            because the decoder skips the finest detail.

    Raises:
        InputError: the file is missing or is not a readable image, or the range of its values is unknown.
    """
    try:
        if not os.path.isfile(path):  # opening a named pipe would block
            raise FileNotFoundError
        if not size_of(path, LARGEST_FILE):
            raise ValueError("the file is empty")
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_AREA:
                raise ValueError(f"{image.width}x{image.height} pixels, over the limit of {LARGEST_AREA:,}")
            wanted = {-(-image.width // shrink), -(-image.height // shrink)}
            of_16_bits = any(RAW_16_BITS.search(str(tile.args)) for tile in image.tile)
            if shrink > 1:
                image.draft(None, (image.width // shrink, image.height // shrink))
            image.load()
            if image.getexif().get(ORIENTATION, 1) != 1:  # exif_transpose copies even upright images
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):  # convert() would clip instead of scaling
                image = Image.fromarray(_eight_bits(np.asarray(image)))
            elif of_16_bits:  # colour: Pillow has already dropped the lower 8 bits
                _check_range(256 * max(high for _, high in image.getextrema()[:3]))
            image = image if image.mode == "RGB" else image.convert("RGB")
            return image if set(image.size) == wanted else image.reduce(shrink)  # the decoder could not shrink
    except FileNotFoundError:
        raise InputError(f"{path}: missing, a broken link or not an ordinary file") from None
    except InputError:  # raised by size_of
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        reason = (
            getattr(error, "strerror", None) or str(error).replace(repr(str(path)), "the file") or type(error).__name__
        )
        raise InputError(f"{path}: cannot be read as an image ({reason})") from None


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """(H, W) grey values, integers or floats of more than 8 bits -> (H, W) uint8.

    Ranges: 16-bit integers 0 to 65,535; 32-bit integers the same, or 0 to 255 if none is larger; floats 0 to 1, or
    0 to 255 if one is above 1.

    Raises:
        ValueError: values outside these ranges, or an ambiguous range.
    """
    low, high = grey.min(), grey.max()  # NaN if any value is
    if grey.dtype.kind == "f":
        if not (low >= 0 and high <= 255):
            raise ValueError(
                f"floats from {low:.4g} to {high:.4g}, but only 0 to 1 or 0 to 255 is supported; {SAVE_ANEW}"
            )
        return (grey * (255 if high <= 1 else 1)).round().astype(np.uint8)
    if low < 0 or high > 65_535:
        raise ValueError(f"grey values from {low:,} to {high:,}, but only 0 to 65,535 is supported; {SAVE_ANEW}")
    if grey.dtype.itemsize == 4 and high <= 255:
        return grey.astype(np.uint8)
    _check_range(high)
    return (grey >> 8).astype(np.uint8)


def _check_range(high: int) -> None:
    """Raise ValueError if the maximum of 16-bit samples also fits 12 or 14 bits, so that white is unknown."""
    if 0 < high < QUARTER:
        raise ValueError(f"16-bit samples with a maximum of only {high:,}: 12, 14 or 16 bits? {SAVE_ANEW}")


class Decoded:
    """`load_rgb` with a cache: an image is decoded once for all input sizes and evaluations of a run.

    Args:
        budget: bytes of the cache; images that no longer fit are decoded each time.
    """

    def __init__(self, budget: float):
        self.left = budget
        self._known: dict[str, np.ndarray] = {}  # path -> (h, w, 3) uint8

    def __call__(self, path: str | os.PathLike) -> Image.Image:
        known = self._known.get(path)
        if known is not None:
            return Image.fromarray(known)
        image = load_rgb(path)
        if 3 * image.width * image.height <= self.left:
            self.left -= 3 * image.width * image.height
            self._known[path] = np.asarray(image)
        return image


def unreadable(errors: Sequence[str], of: int) -> str:
    """The error text about unreadable images: `errors` lists them, `of` is the number of images looked at."""
    listed = "; ".join(errors[:5]) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
    return f"{len(errors)} of {of:,} images cannot be read; repair or delete them, or add --skip-bad-images: {listed}"
