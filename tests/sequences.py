"""Tiny sequences in MOT format: people as coloured rectangles on a grey street."""

from pathlib import Path

import numpy as np
from conftest import COLOURS
from PIL import Image

SIZE = (160, 120)  # width, height of a frame


def place(person: int, frame: int) -> tuple[int, int, int, int]:
    """Where a person is: left, top, width, height; people walk at 1 pixel a frame in lanes of their own."""
    return 4 + 36 * person + frame % 8, 20 + 4 * person, 24, 64


def make_sequence(folder, people: int = 4, frames: int = 40, name: str = "{:06d}.jpg", first: int = 1) -> Path:
    """Frames and `det/det.txt`; `first` is the number of the first file. Annotations: `annotate`."""
    folder = Path(folder)
    (folder / "img1").mkdir(parents=True)
    (folder / "det").mkdir()
    rows = []
    for frame in range(1, frames + 1):
        pixels = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
        for person in range(people):
            left, top, width, height = place(person, frame)
            pixels[top : top + height, left : left + width] = COLOURS[person]
            rows.append(f"{frame},-1,{left},{top},{width},{height},0.9")
        Image.fromarray(pixels).save(folder / "img1" / name.format(frame + first - 1), quality=95)
    (folder / "det" / "det.txt").write_text("\n".join(rows) + "\n")
    return folder


def annotate(folder, tail: str = "1,1,1.0", people: int = 4, frames: int = 40, separator: str = ",") -> Path:
    """`gt/gt.txt` with the tracks 11, 12, ...; `tail` is what stands behind the box."""
    path = Path(folder) / "gt" / "gt.txt"
    path.parent.mkdir(exist_ok=True)
    rows = []
    for person in range(people):  # track by track, as MOTChallenge has them
        for frame in range(1, frames + 1):
            values = [frame, 11 + person, *place(person, frame), *filter(None, tail.split(","))]
            rows.append(separator.join(map(str, values)))
    path.write_text("\n".join(rows) + "\n")
    return path


def add_row(path: Path, *values) -> None:
    path.write_text(path.read_text() + ",".join(map(str, values)) + "\n")
