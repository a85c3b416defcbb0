"""One image file to upright RGB, whatever kind of file it is."""

import os
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from appearance.cli import InputError
from appearance.reading import size_of

ORIENTATION = 0x0112  # where EXIF says how the camera was held; 1 is upright
LARGEST_AREA = 50_000_000  # pixels; a small file can claim any size, and would fill the memory
LARGEST_FILE = 8 * LARGEST_AREA + (1 << 20)  # bytes: so many pixels, of four 16-bit samples each
RAW_16_BITS = re.compile(r";16[BLN]")  # what Pillow calls samples of 16 bits in big, little or native order
SAVE_ANEW = "save it with 8 bits, black at 0 and white at 255"
QUARTER = 1 << 14  # of the 16-bit range: an image that stays below may have 12 or 14 bits, which the file does not say


def load_rgb(path: str | os.PathLike, shrink: int = 1) -> Image.Image:
    """An image file in any mode (grey, palette, RGBA, CMYK, 16-bit, EXIF-rotated) as an upright RGB image.

    Of an animated file, the first picture. Samples of more than 8 bits keep their range (`_eight_bits`).

    Args:
        shrink: 2, 4 or 8 for an image of so many times fewer pixels each way (rounded up), which of a JPEG file takes a
            third of the time: its decoder leaves out the finest detail instead of averaging.

    Raises:
        InputError: the file cannot be read as an image, or its pixel values have no known range; names it.
    """
    try:
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            raise FileNotFoundError
        if not size_of(path, LARGEST_FILE):
            raise ValueError("it is empty")
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_AREA:
                raise ValueError(f"{image.width}x{image.height} pixels are too many for the crop of a person")
            wanted = {-(-image.width // shrink), -(-image.height // shrink)}
            of_16_bits = any(RAW_16_BITS.search(str(tile.args)) for tile in image.tile)
            if shrink > 1:
                image.draft(None, (image.width // shrink, image.height // shrink))
            image.load()
            if image.getexif().get(ORIENTATION, 1) != 1:  # or it copies every image
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):  # convert() would clip it to white or black
                image = Image.fromarray(_eight_bits(np.asarray(image)))
            elif of_16_bits:  # in colour: Pillow has kept the upper 8 bits of each sample
                _check_range(256 * max(high for _, high in image.getextrema()[:3]))
            image = image if image.mode == "RGB" else image.convert("RGB")
            return image if set(image.size) == wanted else image.reduce(shrink)  # what its decoder could not do
    except FileNotFoundError:
        raise InputError(f"{path}: missing, a broken link or no file") from None
    except InputError:  # of its size
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        reason = getattr(error, "strerror", None) or str(error).replace(repr(str(path)), "it") or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({reason})") from None


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits, (H, W) integers or floats, in the range of uint8.

    16-bit values lose their lower half. Floats run from 0 to 1, or to 255 where one is larger than 1; 32-bit integers
    run to 255, or to 65,535 where one is larger than 255.

    Raises:
        ValueError: the values are of another range, or of one that they do not tell.
    """
    low, high = grey.min(), grey.max()  # NaN if there is one
    if grey.dtype.kind == "f":
        if not (low >= 0 and high <= 255):
            raise ValueError(f"floats from {low:.4g} to {high:.4g}, where 0 to 1 or 0 to 255 are read; {SAVE_ANEW}")
        return (grey * (255 if high <= 1 else 1)).round().astype(np.uint8)
    if low < 0 or high > 65_535:
        raise ValueError(f"grey values from {low:,} to {high:,}, where 0 to 65,535 are read; {SAVE_ANEW}")
    if grey.dtype.itemsize == 4 and high <= 255:
        return grey.astype(np.uint8)
    _check_range(high)
    return (grey >> 8).astype(np.uint8)


def _check_range(high: int) -> None:
    """Raises ValueError where 16-bit samples reach no further than those of 12 or 14 bits do."""
    if 0 < high < QUARTER:
        raise ValueError(f"16-bit samples up to {high:,} only: of 12, 14 or 16 bits? {SAVE_ANEW}")


class Decoded:
    """`load_rgb` that remembers: an image is decoded once for all sizes and evaluations of a run.

    Args:
        budget: bytes that it may use; images that no longer fit are decoded anew each time.
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
    """One line for all images of a set that cannot be read."""
    listed = "; ".join(errors[:5]) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
    return f"{len(errors)} of {of:,} images cannot be read; mend them or add --skip-bad-images: {listed}"
