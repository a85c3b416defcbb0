"""evaluate.py keeps to --memory beside its features under every flag: memory-mapped features stay in their files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, script_environment

from appearance.measure import calibrate, features_file, reappear, rerank
from appearance.measure.stacked import Stacked

MEMORY = 32 << 20  # bytes
PICTURES = 48 << 20  # bytes for pictures, tables and what Python keeps
FLAGS = {
    "ranks": ["cameras"],
    "calibrate": ["cameras", "--calibrate"],
    "multi-query": ["cameras", "--protocol", "multi-query", "--json", "m.json"],
    "mars": ["tracklets", "--protocol", "mars"],
    "rerank": ["wide", "--rerank"],
    "rerank of many": ["many", "--rerank"],
    "reappear": ["video", "--protocol", "reappear", "--calibrate", "--json", "m.json"],
    "exact": ["video", "--protocol", "reappear", "--exact", "--every", "600", "--json", "m.json", "--report", "report"],
}


def write(folder: Path, rows, times, cameras: int, junk: bool = False, names=None, queries: int = 100):
    """A features folder of 60 people, each of whom is seen once in a frame."""
    labels = np.arange(len(rows)) % 60 + 1
    camera = 1 + np.arange(len(rows)) // 60 % cameras
    columns = {"l": labels, "c": camera, "t": times}
    data = {side + key: column[part] for side, part in sides(queries).items() for key, column in columns.items()}
    if junk:
        data["gl"][::50] = -1
    if names:
        data |= {f"{side}_paths": names[part] for side, part in sides(queries).items()}
    data |= {side + "f": rows[part] for side, part in sides(queries).items()}
    features_file.save(folder, data)


def sides(queries: int) -> dict[str, slice]:
    return {"q": slice(queries), "g": slice(queries, None)}


@pytest.fixture(scope="module")
def peaks(tmp_path_factory) -> dict[str, int]:
    """Bytes that each list of flags takes at most."""
    folder, generator = tmp_path_factory.mktemp("features"), torch.Generator().manual_seed(0)

    def rows(number: int, size: int):
        found = torch.randn(60, size, generator=generator)[torch.arange(number) % 60]
        return torch.nn.functional.normalize(found + torch.randn(number, size, generator=generator))

    large, times = rows(15_000, 1024), np.arange(15_000) // 60 * 30  # 61 MB
    write(folder / "cameras", large, times, 3, junk=True)
    write(folder / "video", large, times, 1)
    names = [f"{n % 60 + 1:04d}C{1 + n // 60 % 3}T0001F{n:06d}.jpg" for n in range(len(large))]
    write(folder / "tracklets", large, times, 3, names=names)
    # the product of all with all takes long
    write(folder / "wide", rows(1500, 8192), np.zeros(1500), 3, junk=True)
    write(folder / "many", rows(8000, 16), np.zeros(8000), 3, junk=True, queries=2500)
    del large
    flags = [[*arguments, "--memory", str(MEMORY / 2**30)] for arguments in FLAGS.values()]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "peak_memory.py", json.dumps(flags)],
        cwd=folder,
        # what is freed goes back to the system at once, so that one list of flags takes nothing over from another
        env=script_environment(MALLOC_MMAP_THRESHOLD_="1048576", MALLOC_TRIM_THRESHOLD_="1048576", OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(zip(FLAGS, json.loads(done.stdout), strict=True))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="counts anonymous memory as Linux does")
@pytest.mark.parametrize("flags", FLAGS)
def test_memory(peaks, flags):
    print(peaks)
    assert peaks[flags] < MEMORY + PICTURES, f"{peaks[flags] / 2**20:.0f} MiB"


# ------------------------------------------------------------------------------------------------------ blocks of rows


def test_little_memory_changes_nothing(tmp_path):
    rows = torch.nn.functional.normalize(torch.randn(900, 16, generator=torch.Generator().manual_seed(0)))
    write(tmp_path / "f", rows, np.arange(900) // 60 * 30, 1, junk=True)
    data = features_file.load(tmp_path / "f")
    assert calibrate.calibrate(data, gap=50, memory=1_000_000) == calibrate.calibrate(data, gap=50)
    (few, few_curve, _), (results, curve, _) = (reappear.rank(data, 50, *memory) for memory in ([100_000], []))
    assert torch.equal(few["first"], results["first"])
    assert [point["mAP"] for point in few_curve] == pytest.approx([point["mAP"] for point in curve], abs=1e-12)
    few, distances = (rerank.re_ranking(data["qf"], data["gf"], memory=memory) for memory in (100_000, 1 << 30))
    assert torch.allclose(few, distances, atol=1e-6)


def test_stacked_rows():
    first, second = torch.arange(6.0).view(3, 2), torch.arange(6.0, 14.0).view(4, 2)
    joined, rows = torch.cat([first, second]), Stacked(first, second)
    chosen = torch.tensor([6, 0, 4, 3])
    for found, wanted in (
        (rows, joined),
        (Stacked(rows), joined),
        (Stacked(first, second, chosen=chosen), joined[chosen]),
        (Stacked(rows, chosen=chosen), joined[chosen]),
        (Stacked(Stacked(rows, chosen=chosen), first), torch.cat([joined[chosen], first])),
    ):
        assert (len(found), found.shape, found.copies) == (len(wanted), wanted.shape, True)
        for numbers in (slice(0, 2), slice(2, 99), slice(0, 0), torch.tensor([3, 0, 3]), torch.tensor([], dtype=int)):
            assert torch.equal(found[numbers], wanted[numbers])


def test_rows_of_a_slice_stay_where_they_are():
    rows = torch.zeros(5, 2)
    for whole in (Stacked(rows), Stacked(rows, chosen=torch.arange(5)), Stacked(Stacked(rows))):
        assert not whole.copies
        assert whole[1:4].data_ptr() == rows[1:].data_ptr()
    assert Stacked(rows, rows[:2])[1:4].data_ptr() == rows[1:].data_ptr()
