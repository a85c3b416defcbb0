"""One image file to upright RGB, whatever kind of file it is."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from appearance.cli import InputError

ORIENTATION = 0x0112  # where EXIF says how the camera was held; 1 is upright
LARGEST_AREA = 50_000_000  # pixels; a small file can claim any size, and would fill the memory


def load_rgb(path: str | os.PathLike, shrink: int = 1) -> Image.Image:
    """An image file in any mode (grey, palette, RGBA, CMYK, 16-bit, EXIF-rotated) as an upright RGB image.

    Of an animated file, the first picture.

    Args:
        shrink: 2, 4 or 8 for an image of so many times fewer pixels each way (rounded up), which of a JPEG file takes a
            third of the time: its decoder leaves out the finest detail instead of averaging.

    Raises:
        InputError: the file cannot be read as an image; names it.
    """
    try:
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            raise FileNotFoundError
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_AREA:
                raise ValueError(f"{image.width}x{image.height} pixels are too many for the crop of a person")
            wanted = {-(-image.width // shrink), -(-image.height // shrink)}
            if shrink > 1:
                image.draft(None, (image.width // shrink, image.height // shrink))
            image.load()
            if image.getexif().get(ORIENTATION, 1) != 1:  # or it copies every image
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # convert() would clip 16-bit grey to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image if image.mode == "RGB" else image.convert("RGB")
            return image if set(image.size) == wanted else image.reduce(shrink)  # what its decoder could not do
    except FileNotFoundError:
        raise InputError(f"{path}: missing, a broken link or no file") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        reason = getattr(error, "strerror", None) or str(error).replace(repr(str(path)), "it") or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({reason})") from None


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
