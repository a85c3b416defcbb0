"""Read identities of images in any folder tree, from a pattern, a CSV file or Market-1501 file names."""

import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from appearance.cli import InputError, counted
from appearance.data.folders import few
from appearance.data.layouts import ReIDData, add_class_samples, images, number_identities
from appearance.data.names import parse_name
from appearance.identities import nobody
from appearance.reading import text_of

COLUMNS = {  # accepted column names of the CSV file
    "file": ("file", "filename", "file_name", "path", "image", "image_name", "image_path", "img"),
    "identity": ("identity", "id", "pid", "person", "person_id", "label", "class", "name"),
    "camera": ("camera", "cam", "camid", "camera_id"),
    "session": ("session", "clip", "track", "tracklet", "day"),
}


class Told(NamedTuple):
    """Identity, camera and session of one image; "" if unknown."""

    identity: str
    camera: str = ""
    session: str = ""


def read(root: Path, identity: str | None) -> tuple[ReIDData, dict[str, str]]:
    """All images below `root` as training samples, and path -> session for those with a known session.

    Args:
        identity: the value of `split --identity`, a pattern or a CSV file; None: file names are like Market-1501's.

    Raises:
        InputError: there are no images, the pattern or table is invalid, or no image has an identity.
    """
    paths = images(root)
    if not paths:
        raise InputError(f"{root}: no images in this folder or below")
    if identity is None:
        tell, flag = _market_name, "the file name"
    elif identity.lower().endswith((".csv", ".tsv")) or os.path.isfile(identity):
        tell, flag = _table(Path(identity), root, paths), f"--identity {identity}"
    else:
        tell, flag = pattern("identity", identity), f"--identity {identity}"
    told = {path: tell(inside(root, path)) for path in paths}
    lost = [path for path, one in told.items() if one is None or not one.identity]
    if len(lost) == len(paths):
        raise InputError(
            f"{flag}: matches none of {len(paths):,} images, such as {few([inside(root, p) for p in paths])}"
        )
    told = {path: one for path, one in told.items() if one is not None and one.identity}
    for path, one in told.items():
        if re.search(r"[/\\\0]|^\.", one.identity):
            raise InputError(f"{flag}: identity {one.identity!r} of {inside(root, path)} is not a valid folder name")
    data = ReIDData(root, "flat folder", folders={"train": root})
    found = [(path, one.identity, one.camera) for path, one in told.items()]
    add_class_samples(data, {"train": found}, number_identities({"train": {who for _, who, _ in found}}))
    if lost:
        examples = few([inside(root, path) for path in lost])
        what = "identity" if identity is not None else "person (-1 is junk, 0000 a distractor)"
        data.notes.append(f"{counted(len(lost), 'image')} left out: {flag} gives no {what} ({examples})")
    return data, {path: one.session for path, one in told.items() if one.session}


def has_market_names(root: Path) -> bool:
    """Whether all images lie directly in `root` and have Market-1501 file names."""
    paths = images(root) if root.is_dir() else []
    return bool(paths) and all(
        os.path.dirname(path) == str(root) and parse_name(os.path.basename(path)).pid is not None for path in paths
    )


def pattern(flag: str, text: str) -> Callable[[str], Told | None]:
    """A function: path relative to the root (with slashes) -> what the pattern finds in it, None if no match.

    Args:
        flag: "identity" or "session". Its value is the group of this name, else the first unnamed group, else (for
            sessions) the whole match.

    Raises:
        InputError: `text` is not a regular expression, or has no group where one is needed.
    """
    try:
        compiled = re.compile(text)
    except re.error as error:
        raise InputError(f"--{flag} {text}: is not a valid regular expression ({error})") from None
    groups = compiled.groupindex
    if not compiled.groups and flag == "identity":
        raise InputError(
            f"--identity {text}: is neither a file nor a pattern with a group; put the part for the identity in "
            "brackets, as in '^([0-9]+)_'"
        )

    def tell(path: str) -> Told | None:
        match = compiled.search(path)
        if not match:
            return None
        named = {name: match[name] or "" for name in Told._fields if name in groups}
        unnamed = next((match[n] for n in range(1, compiled.groups + 1) if n not in groups.values()), None)
        named.setdefault(flag, (unnamed if unnamed is not None else match[0]) or "")
        return Told(**{"identity": "", **named})

    return tell


def _market_name(path: str) -> Told | None:
    name = os.path.basename(path)
    pid = parse_name(name).pid
    return Told(name.split("_")[0]) if pid is not None and pid not in nobody(()) else None


def _table(file: Path, root: Path, paths: list[str]) -> Callable[[str], Told | None]:
    """A function: path relative to the root -> its row of a CSV file (file, identity[, camera, session])."""
    try:
        lines = io.StringIO(text_of(file, "utf-8-sig"), newline="")
        first = lines.readline()
        lines.seek(0)
        rows = list(csv.DictReader(lines, delimiter=max(",;\t", key=first.count)))
    except (InputError, csv.Error) as error:
        raise InputError(f"--identity {file}: cannot be read ({error})") from None
    header = {str(name).strip().lower(): name for name in (rows[0] if rows else ())}
    columns = {key: next((header[n] for n in names if n in header), None) for key, names in COLUMNS.items()}
    if not rows or not columns["file"] or not columns["identity"]:
        raise InputError(f"--identity {file}: the first line must name the columns, as in file,identity,camera,session")
    table, known = {}, {inside(root, path) for path in paths}
    by_name = {}
    for path in known:
        by_name.setdefault(path.rsplit("/", 1)[-1], []).append(path)
    for number, row in enumerate(rows, start=2):
        cells = {key: (row.get(column) or "").strip() for key, column in columns.items() if column}
        path = cells.pop("file").replace("\\", "/").removeprefix("./")
        alike = by_name.get(path.rsplit("/", 1)[-1], [])
        found = [one for one in alike if f"/{path}".endswith(f"/{one}") or f"/{one}".endswith(f"/{path}")]
        found = [path] if path in known else found
        if len(found) != 1:
            what = "is not an image in" if not found else f"matches {len(found)} images in"
            text = f"--identity {file}, line {number}: {path} {what} {root}; give the path relative to that folder"
            raise InputError(text)
        if table.setdefault(found[0], Told(**cells)) != Told(**cells):
            raise InputError(
                f"--identity {file}, line {number}: {path} is listed twice with different values; delete one line"
            )
    return table.get


def inside(root: Path, path: str) -> str:
    """The path relative to `root`, with slashes."""
    return Path(path).relative_to(root).as_posix()
