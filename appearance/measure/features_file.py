"""The features file, written by `test.py` and read by `evaluate.py`.

A dict, Nq query rows and Ng gallery rows:

    qf, gf            float32 (Nq, D), (Ng, D)   unit feature vectors
    ql, gl            int64   (Nq,), (Ng,)       identities; -1 is junk, 0 a distractor unless a query has it
    qc, gc            int64   (Nq,), (Ng,)       cameras, -1 unknown
    qt, gt            int64   (Nq,), (Ng,)       time in frames, sequence * 10_000_000 + frame number, -1 unknown
    q_paths, g_paths  list of str                the images, absolute or relative to meta["data_dir"]; may be empty
    meta              dict                       origin of the features; `names`: {identity number as text: its name in
                                                 folders or files}

The path decides the format:

    name.pth          torch.save; `.pt` and `.t7` as well
    name.npz          numpy.savez
    name/ or name     a folder of memory-mapped .npy files and meta.json, for sets that do not fit in memory

MATLAB's `pytorch_result.mat` (query_f, query_label, query_cam, gallery_f, ...) is read, not written.
Only `qf ql gf gl` are required when reading. Objects are never unpickled, so untrusted files are safe to open.
"""

import json
import os
import pickle
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from appearance.cli import InputError
from appearance.files import atomic_write, beside, explained, make_folder
from appearance.networks.inference import UNIT_TOLERANCE
from appearance.reading import is_plain, matlab_arrays, refuse_bomb, size_of, text_of

FEATURES, LABELS, CAMERAS, TIMES, PATHS = ("qf", "gf"), ("ql", "gl"), ("qc", "gc"), ("qt", "gt"), ("q_paths", "g_paths")
ARRAYS = FEATURES + LABELS + CAMERAS + TIMES
TORCH_SUFFIXES = (".pth", ".pt", ".t7")
MAT_NAMES = {"qf": "query_f", "ql": "query_label", "qc": "query_cam"}
MAT_NAMES |= {"gf": "gallery_f", "gl": "gallery_label", "gc": "gallery_cam"}
CHECK_ROWS = 65536  # rows per step of the checks, to bound their memory


def save(path, features: dict):
    """Write a features dict atomically.

    Raises InputError: unknown suffix, the path cannot be written, or rows are not unit vectors.
    """
    path, kind = Path(path), check_place(path)
    for key in FEATURES:
        _features(features[key], f"{path}: not written: {key}", "use other weights, or --amp fp32")
    arrays = {key: _array(features[key]) for key in ARRAYS if key in features}
    notes = {key: features.get(key, {} if key == "meta" else []) for key in (*PATHS, "meta")}
    if kind == "folder":
        _save_folder(path, arrays, notes)
    elif kind == "torch":
        tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        atomic_write(path, lambda file: torch.save(tensors | notes, file))
    else:
        atomic_write(path, lambda file: np.savez(file, notes=np.array(json.dumps(notes)), **arrays))


def check_place(path) -> str:
    """The format that `save` would write, checked before long work whose result could not be saved.

    Raises InputError as `save` does for the path.
    """
    path, kind = Path(path), _kind(path)
    if kind == "mat":
        raise InputError(f"{path}: .mat files are read, not written; use .pth, .npz or a folder name")
    if kind == "folder" and path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file, not a folder; choose another name, or one that ends in .pth or .npz")
    if kind == "folder" and path.is_dir() and any(path.iterdir()) and not (path / "qf.npy").exists():
        raise InputError(f"{path}: this folder has other files in it; choose a new name for the features")
    with explained(path):
        make_folder(path.parent)
        tempfile.TemporaryFile(dir=path.parent, prefix=f".{path.name}.").close()
    return kind


def load(path) -> dict:
    """Read and check a features file of any format above; missing keys are filled with -1, [] and {}.

    Returns tensors on the CPU; those of a folder are memory-mapped (copy on write).
    Raises InputError, naming file, key and rows: the file is missing, damaged or unsafe, or rows are not unit vectors.
    """
    path, kind = Path(path), _kind(path)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such features file; run `python test.py` first, or name the file it wrote")
    if kind != "folder":
        size_of(path)
        refuse_bomb(path, compressed=kind != "torch")
    raw = {"torch": _load_torch, "npz": _load_npz, "mat": _load_mat, "folder": _load_folder}[kind](path)
    return check(raw, str(path))


def check(raw: dict, name: str = "features") -> dict:
    """A complete features dict of tensors from `raw`. Raises InputError, which begins with `name`."""
    missing = [key for key in FEATURES + LABELS if key not in raw]
    if missing:
        raise InputError(f"{name}: has no {', '.join(missing)}; a features file needs at least qf, ql, gf and gl")
    out = {key: _features(raw[key], f"{name}: {key}") for key in FEATURES}
    if out["qf"].shape[1] != out["gf"].shape[1]:
        sizes = f"{out['qf'].shape[1]} numbers per row, but gf has {out['gf'].shape[1]}"
        raise InputError(f"{name}: qf has {sizes}; both must come from the same network")
    for side, features in (("q", out["qf"]), ("g", out["gf"])):
        rows = len(features)
        for key in (side + "l", side + "c", side + "t"):
            if raw.get(key) is None and key not in LABELS:
                out[key] = torch.full((rows,), -1)
            else:
                out[key] = _integers(raw[key], rows, f"{name}: {key}")
        out[side + "_paths"] = _paths(raw.get(side + "_paths"), rows, f"{name}: {side}_paths")
    meta = raw.get("meta", {})
    if not isinstance(meta, dict):
        raise InputError(f"{name}: meta is a {type(meta).__name__}, but must be a dict")
    return out | {"meta": meta}


def name_of(data: dict, identity) -> str:
    """The name of an identity in its dataset's folders or files; its number as text if the features file has none."""
    names = data.get("meta", {}).get("names")
    name = names.get(str(int(identity))) if isinstance(names, dict) else None
    return name if isinstance(name, str) else str(int(identity))


# ---------------------------------------------------------------------------------------------------------- checks


def _features(value, name: str, advice: str = "extract them again") -> torch.Tensor:
    """(N, D) float32 unit rows. Raises InputError, with the advice, if they are not."""
    value = _tensor(value, name)
    if value.dim() != 2 or 0 in value.shape:
        raise InputError(f"{name} has shape {tuple(value.shape)}, but must be (images, numbers) without a 0")
    if not value.is_floating_point():
        raise InputError(f"{name} is {value.dtype}, but must be floating-point")
    value = value.to(torch.float32)
    not_finite, not_unit = [], []
    for start in range(0, len(value), CHECK_ROWS):
        if not_finite or not_unit:  # enough for a message
            break
        # one pass: the norm of a row with NaN or infinite values is not finite either
        norms = torch.linalg.vector_norm(value[start : start + CHECK_ROWS], dim=1)
        finite = norms.isfinite()
        not_finite += (~finite).nonzero()[:, 0].add_(start).tolist()
        not_unit += (finite & ((norms - 1).abs() > UNIT_TOLERANCE)).nonzero()[:, 0].add_(start).tolist()
    if not_finite:
        raise InputError(f"{name} has NaN or infinite values in {_rows(not_finite, len(value))}; {advice}")
    if not_unit:
        length = torch.linalg.vector_norm(value[not_unit[0]]).item()
        raise InputError(
            f"{name} has vectors of a length other than 1 in {_rows(not_unit, len(value))} (row {not_unit[0]}: "
            f"{length:.4g}); " + ("divide each row by its length" if length else advice)
        )
    return value


def _integers(value, rows: int, name: str) -> torch.Tensor:
    value = _tensor(value, name)
    if value.numel() != rows:
        raise InputError(f"{name} has {value.numel()} entries for {rows} feature rows")
    value = value.reshape(-1)
    if value.is_complex() or (value.is_floating_point() and not torch.equal(value, value.round())):
        raise InputError(f"{name} must be whole numbers")
    return value.to(torch.int64).contiguous()  # a column of a table is strided


def _paths(value, rows: int, name: str) -> list:
    value = [] if value is None else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(path, str) for path in value):
        raise InputError(f"{name} must be a list of strings")
    if len(value) not in (0, rows):
        raise InputError(f"{name} has {len(value)} entries for {rows} feature rows")
    return list(value)


def _tensor(value, name: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        array = np.asarray(value)
        if not array.dtype.isnative or any(stride < 0 for stride in array.strides):  # not supported by torch
            array = array.astype(array.dtype.newbyteorder("="), order="C")
        try:
            return torch.from_numpy(array)
        except TypeError:
            raise InputError(f"{name} is not an array of numbers") from None
    return value.detach()


def _rows(indices: list, total: int) -> str:
    shown = ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")
    return f"{len(indices)} of {total} rows ({shown})"


def _array(value) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


# --------------------------------------------------------------------------------------------------------- formats


def _kind(path) -> str:
    text, suffix = str(path), Path(path).suffix.lower()
    if text.endswith("/") or Path(path).is_dir() or not suffix:
        return "folder"
    for kind, suffixes in (("torch", TORCH_SUFFIXES), ("npz", (".npz",)), ("mat", (".mat",))):
        if suffix in suffixes:
            return kind
    raise InputError(f"{path}: not a features file; its name must end in .pth, .npz or .mat, or it is a folder")


def _load_torch(path: Path) -> dict:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not loaded: it is damaged, or contains Python objects other than tensors, numbers and text, "
            "which could run code when loaded; write it again with `python test.py`"
        ) from error
    except Exception as error:  # the unpickler raises nearly anything on a broken file
        raise InputError(f"{path}: cannot be read; it is damaged or not a torch file, write it again") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: contains a {type(raw).__name__}, but must contain a dict with qf, ql, gf, gl")
    for key in ARRAYS:
        if isinstance(raw.get(key), torch.Tensor) and not is_plain(raw[key]):
            raise InputError(f"{path}: {key} is not a plain tensor of numbers; write the file again with test.py")
    return raw


def _load_npz(path: Path) -> dict:
    try:
        with np.load(path, allow_pickle=False) as file:
            raw = {key: file[key] for key in file.files}
        notes = json.loads(str(raw.pop("notes", "{}")))
        for key in PATHS:  # files by others have paths as arrays of text
            if key in raw:
                notes[key] = [str(path) for path in raw.pop(key)]
        return raw | notes
    except Exception as error:  # numpy and zipfile raise nearly anything on a broken file
        raise InputError(f"{path}: not a readable .npz; it is damaged or contains objects, write it again") from error


def _load_mat(path: Path) -> dict:
    try:
        raw = matlab_arrays(path, tuple(MAT_NAMES.values()))
    except ImportError as error:
        raise InputError(f"{path}: reading .mat files needs scipy: pip install scipy") from error
    return {key: raw[name] for key, name in MAT_NAMES.items() if name in raw}


def _load_folder(path: Path) -> dict:
    if not path.is_dir():
        raise InputError(f"{path}: not a features file; its name must end in .pth, .npz or .mat, or it is a folder")
    raw = {}
    for key in ARRAYS:
        file = path / f"{key}.npy"
        if os.path.lexists(file):
            size_of(file, sys.maxsize)
            try:
                # "c": pages are read when touched, and writing to the tensor never reaches the file
                raw[key] = np.asarray(np.load(file, mmap_mode="c", allow_pickle=False))
            except (OSError, ValueError, EOFError, OverflowError) as error:
                raise InputError(f"{file}: cannot be read as an array of numbers; write it again") from error
    try:
        notes = json.loads(text_of(path / "meta.json")) if os.path.lexists(path / "meta.json") else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path / 'meta.json'}: is not valid JSON; run test.py again") from error
    if not isinstance(notes, dict):
        raise InputError(f"{path / 'meta.json'}: must be a JSON object with q_paths, g_paths and meta")
    return raw | notes


def _save_folder(path: Path, arrays: dict, notes: dict):
    """Write a folder of features; an existing one is replaced."""
    with explained(path), beside(path, replace=True) as new:
        new.mkdir()
        for key, value in arrays.items():
            np.save(new / f"{key}.npy", value, allow_pickle=False)
        (new / "meta.json").write_text(json.dumps(notes))
