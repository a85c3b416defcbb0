"""The features file: every way it is stored, and what a broken or hostile one gets."""

import os
import pickle

import numpy as np
import pytest
import torch

from appearance.cli import InputError
from appearance.measure import features_file


def small():
    random = np.random.default_rng(0)
    rows = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(7, 4))).float())
    return {
        "qf": rows[:3],
        "gf": rows[3:],
        "ql": torch.tensor([1, 2, 3]),
        "gl": torch.tensor([1, -1, 0, 2]),
        "qc": torch.tensor([1, 1, 2]),
        "gc": torch.tensor([2, 2, 3, 1]),
        "qt": torch.tensor([10_000_451, 20_000_001, -1]),
        "gt": torch.tensor([-1, -1, -1, 5]),
        "q_paths": ["a.jpg", "b.jpg", "ü c.jpg"],
        "g_paths": ["d.jpg", "e.jpg", "f.jpg", "g.jpg"],
        "meta": {"arch": "net", "height": 128, "data_dir": "data"},
    }


def same(found, expected):
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value), key
        else:
            assert found[key] == value, key


@pytest.mark.parametrize("name", ["f.pth", "f.pt", "f.npz", "folder", "folder/", "new/deep/f.pth", "new/deep/folder"])
def test_round_trip(tmp_path, name):
    path = f"{tmp_path}/{name}"
    features_file.save(path, small())
    same(features_file.load(path), small())
    features_file.save(path, small() | {"ql": torch.tensor([4, 5, 6])})  # again, over the old one
    assert features_file.load(path)["ql"].tolist() == [4, 5, 6]
    left = [entry for _, folders, files in os.walk(tmp_path) for entry in folders + files if entry.startswith(".")]
    assert left == []  # no temporary files


def test_folder_is_memory_mapped_and_never_written_to(tmp_path):
    features_file.save(tmp_path / "f", small())
    found = features_file.load(tmp_path / "f")
    found["gf"].zero_()
    same(features_file.load(tmp_path / "f"), small())


def test_matlab_file(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    data = small()
    names = {new: data[key].numpy() for key, new in features_file.MAT_NAMES.items()}
    savemat(tmp_path / "pytorch_result.mat", names)
    found = features_file.load(tmp_path / "pytorch_result.mat")
    same(found, {key: data[key] for key in features_file.MAT_NAMES})
    assert (found["q_paths"], found["meta"]) == ([], {})


def test_old_file_is_completed(tmp_path):
    data = small()
    torch.save({key: data[key] for key in ("qf", "ql", "gf", "gl")}, tmp_path / "old.pth")
    found = features_file.load(tmp_path / "old.pth")
    assert found["qc"].tolist() == found["qt"].tolist() == [-1] * 3
    assert found["gc"].tolist() == [-1] * 4
    assert (found["g_paths"], found["meta"]) == ([], {})


def broken(**changes):
    return small() | changes


ROWS = small()["gf"]
NAN = torch.where(torch.arange(4)[:, None] == 2, torch.nan, ROWS)
LONG = ROWS * torch.tensor([1.0, 2.0, 1.0, 3.0])[:, None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (broken(gf=NAN), r"f\.pth: gf has NaN or infinite values in 1 of 4 rows \(2\)"),
        (broken(gf=LONG), r"gf has vectors of a length other than 1 in 2 of 4 rows \(1, 3\) \(row 1: 2\)"),
        (broken(qf=torch.zeros(3, 4)), r"qf has vectors of a length other than 1 in 3 of 3 rows"),
        (broken(gf=torch.nn.functional.normalize(torch.ones(4, 9))), "qf has 4 numbers per row, but gf has 9"),
        (broken(gf=ROWS[0]), r"gf has shape \(4,\)"),
        (broken(gf=ROWS[:0]), r"gf has shape \(0, 4\)"),
        (broken(gf=torch.ones(4, 4, dtype=torch.int64)), "gf is torch.int64, but must be floating-point"),
        (broken(gl=torch.tensor([1, 2])), "gl has 2 entries for 4 feature rows"),
        (broken(gl=torch.tensor([1, 2, 3, 4.5])), "gl must be whole numbers"),
        (broken(gc="abcd"), "gc is not an array of numbers"),
        (broken(q_paths=["a"]), "q_paths has 1 entries for 3 feature rows"),
        (broken(q_paths=[1, 2, 3]), "q_paths must be a list of strings"),
        (broken(meta=[1]), "meta is a list"),
        ({"qf": ROWS}, "has no gf, ql, gl; a features file needs"),
        ([1, 2], "contains a list"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, data, message):
    torch.save(data, tmp_path / "f.pth")
    with pytest.raises(InputError, match=message):
        features_file.load(tmp_path / "f.pth")


class Evil:
    """Runs code when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_would_run_code_is_refused(tmp_path):
    marker = tmp_path / "was-run"
    torch.save(small() | {"meta": {"x": Evil(marker)}}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil(marker)))
    for name in ("zip.pth", "bare.pth"):
        with pytest.raises(InputError, match="not loaded"):
            features_file.load(tmp_path / name)
    np.savez(tmp_path / "f.npz", qf=np.array([Evil(marker)], dtype=object))
    with pytest.raises(InputError, match="contains objects"):
        features_file.load(tmp_path / "f.npz")
    features_file.save(tmp_path / "folder", small())
    np.save(tmp_path / "folder" / "gl.npy", np.array([Evil(marker)], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as an array of numbers"):
        features_file.load(tmp_path / "folder")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["f.pth", "f.npz", "f.mat"])
@pytest.mark.parametrize("content", [b"", b"not a features file", b"PK\x03\x04 cut off"])
def test_broken_files_are_input_errors(tmp_path, name, content):
    if name.endswith(".mat"):
        pytest.importorskip("scipy")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        features_file.load(tmp_path / name)


def test_half_a_file_is_an_input_error(tmp_path):
    for name in ("f.pth", "f.npz"):
        features_file.save(tmp_path / name, small())
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=name):
            features_file.load(tmp_path / name)


@pytest.mark.parametrize("row", [torch.full((4,), torch.nan), torch.zeros(4), torch.full((4,), 2.0)])
def test_only_unit_vectors_are_written(tmp_path, row):
    features_file.save(tmp_path / "f.pth", small())
    before = (tmp_path / "f.pth").read_bytes()
    rows = small()["gf"].clone()
    rows[2] = row
    for name in ("f.pth", "f.npz", "folder"):
        with pytest.raises(InputError, match=rf"{name}: not written: gf has .* 1 of 4 rows \(2\)"):
            features_file.save(tmp_path / name, small() | {"gf": rows})
    assert (tmp_path / "f.pth").read_bytes() == before
    assert os.listdir(tmp_path) == ["f.pth"]


def test_names_and_places(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: no such features file; run `python test.py` first"):
        features_file.load(tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"must end in \.pth, \.npz or \.mat"):
        features_file.load(tmp_path / "f.txt")
    with pytest.raises(InputError, match="read, not written"):
        features_file.save(tmp_path / "f.mat", small())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="has other files in it"):
        features_file.save(tmp_path / "photos", small())
    assert (tmp_path / "photos" / "me.jpg").read_bytes() == b"precious"
