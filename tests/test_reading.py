"""Files from strangers: what is opened, what is taken into memory, what is shown of them."""

import io
import json
import os
import resource
import signal
import zipfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, call_script, make_class_folders, make_market, paint, run_script
from networks import write_checkpoint
from PIL import Image

from appearance import cli, reading
from appearance.cli import InputError
from appearance.data import provenance
from appearance.measure import features_file
from appearance.networks import checkpoints
from datasets import PersonImages

LATIN = os.fsdecode(b"caf\xe9")  # a name that is not UTF-8
ESCAPES = "\x1b]0;owned\x07\x1b[2J"
TRAIN = ["--model", "osnet_x0_25", "--height", 32, "--width", 16, "--workers", 1, "--batch_size", 8, "--amp", "fp32"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def patience(seconds: int = 60):
    """Fails where something waits or reads for ever."""

    def over(*_):
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def features(**changes) -> dict:
    rows = torch.nn.functional.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)))
    ids, cameras = torch.arange(12) % 3, torch.arange(12) % 2
    content = {"qf": rows[:5], "ql": ids[:5], "qc": cameras[:5], "gf": rows, "gl": ids, "gc": cameras}
    content |= {"q_paths": [f"{i}.jpg" for i in range(5)], "g_paths": [f"{i}.jpg" for i in range(12)], "meta": {}}
    return content | changes


def folder(content: dict, path) -> None:
    Path(path).mkdir(exist_ok=True)
    for key in ("qf", "ql", "gf", "gl"):
        np.save(Path(path, f"{key}.npy"), content[key])


# -- what is opened ----------------------------------------------------------------------------------------------------


def test_only_ordinary_files_of_a_size_that_fits_are_opened(here):
    os.mkfifo("pipe")
    Path("text").write_text("12345")
    os.symlink("loop", "loop")
    with open("hole", "wb") as file:
        file.truncate(1 << 42)
    for path, words in (
        ("pipe", "is a named pipe"),
        ("/dev/zero", "is a device"),
        (".", "is a folder"),
        ("none", "no such file"),
        ("loop", "cannot be read"),
        ("a" * 300, "cannot be read"),
        ("a\0b", "cannot be read"),
        ("hole", r"4,398,046,511,104 bytes, more than the [\d,]+ that can be read"),
    ):
        for read in (reading.size_of, reading.text_of, reading.digest):
            with pytest.raises(InputError, match=words):
                read(path)
    assert (reading.size_of("text"), reading.text_of("text")) == (5, "12345")
    with pytest.raises(InputError, match="has 5 bytes, more than the 4"):
        reading.size_of("text", 4)


def test_no_image_of_a_data_set_is_waited_for(here):
    """Neither by training, which reads the bytes of all, nor by the loader."""
    data = make_market("data")
    train = data / "bounding_box_train"
    os.mkfifo(train / "0001_c1s1_009000_00.jpg")
    os.symlink("/dev/zero", train / "0001_c1s1_009001_00.jpg")
    with open(train / "0001_c1s1_009002_00.bmp", "wb") as file:
        Image.new("RGB", (4, 4)).save(file, "bmp")
        file.truncate(1 << 42)
    with patience():
        assert len(provenance.fingerprints([str(path) for path in train.iterdir()])) == 16
        result = call_script("train.py", "--data-dir", "data", *TRAIN, "--epochs", 1, "--device", "cpu", cwd=here)
        assert_one_line_error(
            result, "3 of 18 images cannot be read", "not an ordinary file", "4,398,046,511,104 bytes, more"
        )
        assert_one_line_error(call_script("datasets.py", "check", "data", cwd=here), "3 of 3 problems")


def test_nothing_that_a_file_or_a_flag_names_is_waited_for(here):
    """Weights, features, tables: a pipe or a device in their place is a sentence."""
    make_market("data")
    for name in ("pipe.pth", "pipe.csv", "pipe.txt"):
        os.mkfifo(name)
    sequence = Path("SEQ")
    for number in range(1, 4):
        paint(sequence / "img1" / f"{number:06d}.jpg", size=(60, 60))
    device = ["--device", "cpu"]
    with patience():
        for words in (
            ("test.py", "--data-dir", "data", *device, "--weights", "pipe.pth"),
            ("test.py", "--data-dir", "data", *device, "--weights", "/dev/zero"),
            ("export.py", "--data-dir", "data", "--weights", "pipe.pth"),
            ("train.py", "--data-dir", "data", *device, "--weights", "pipe.pth"),
            ("train.py", "--data-dir", "data", *device, "--resume", "pipe.pth"),
            ("evaluate.py", "pipe.pth"),
            ("datasets.py", "split", "data", "out", "--identity", "pipe.csv"),
            ("datasets.py", "crops", sequence, "out", "--tracks", "pipe.txt"),
            ("datasets.py", "crops", sequence, "out", "--tracks", "/dev/zero"),
        ):
            assert_one_line_error(call_script(*words, cwd=here), str(words[-1]))
        os.mkfifo(sequence / "seqinfo.ini")
        assert_one_line_error(call_script("datasets.py", "crops", sequence, "out", cwd=here), "seqinfo.ini")
        os.mkfifo("identities.csv")
        met = {"sets": [{"data_dir": str(here), "layout": "", "identities": 1, "images": 1}]}
        assert provenance.tracks_met(met, "SEQ") == 0


def test_a_report_opens_images_alone(here):
    """It shows what the features file names, which may be anything."""
    os.mkfifo("pipe.jpg")
    os.symlink("/dev/zero", "zero.jpg")
    Image.new("1", (30_000, 30_000)).save("bomb.png")
    paint("private.dat.jpg").rename("private.dat")
    names = ["pipe.jpg", "zero.jpg", "bomb.png", "private.dat", "a\0b.jpg"]
    features_file.save("f.pth", features(q_paths=names, meta={"data_dir": 5, "names": {"0": LATIN}}))
    with patience(120):
        result = call_script("evaluate.py", "f.pth", "--report", "report", cwd=here)
    assert result.code == 0, result.stderr
    assert "images of the ranked lists are blank" in result.stdout
    assert "caf\\udce9" in Path("report", "report.html").read_text()


# -- what is taken into memory -----------------------------------------------------------------------------------------


def compressed(content: dict, path) -> None:
    torch.save(content, "plain.pth")
    with zipfile.ZipFile("plain.pth") as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


def hollow(content: dict, path) -> None:
    """A folder whose labels take no room on the disk and terabytes in memory."""
    folder(content, path)
    with open(Path(path, "gl.npy"), "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (1 << 38,)})
        file.truncate(file.tell() + (1 << 41))


def matlab(content: dict, path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(path, {new: content[key].numpy() for key, new in features_file.MAT_NAMES.items()}, do_compression=True)


BOMBS = {
    "f.npz": lambda path: np.savez_compressed(path, **{k: v for k, v in zeros().items() if k[1:] in ("f", "l", "c")}),
    "f.pth": lambda path: compressed(zeros(), path),
    "f.mat": lambda path: matlab(zeros(), path),
    "folder": lambda path: hollow(features(), path),
}


def zeros() -> dict:
    return features(gf=torch.zeros(1 << 20, 64), gl=torch.zeros(1 << 20), gc=torch.zeros(1 << 20))  # 270 MB


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little_memory(here, name):
    """What would unpack to far more than itself is refused before it does."""
    BOMBS[name](name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        InputError, match=r"not loaded: |refused: |compressed, which torch|cannot be read|entries for 12"
    ):
        features_file.load(name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


ROWS = features()["gf"]
ODD = {
    "expanded": lambda: torch.zeros(1, 1).expand(1 << 40, 8),
    "nested": lambda: torch.nested.nested_tensor([ROWS[0], ROWS[1, :3]]),
    "jagged": lambda: torch.nested.nested_tensor([ROWS[0], ROWS[1, :3]], layout=torch.jagged),
    "sparse": lambda: ROWS.to_sparse(),
    "compressed sparse": lambda: ROWS.to_sparse_csr(),
    "without numbers": lambda: torch.empty(12, 8, device="meta"),
}


@pytest.mark.parametrize("key", ["gf", "gl"])
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_odd_tensors_are_no_features(here, kind, key):
    torch.save(features(**{key: ODD[kind]()}), "f.pth")
    with patience(), pytest.raises(InputError, match=rf"f\.pth: {key}.* is not a plain tensor of numbers"):
        features_file.load("f.pth")


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_odd_tensors_are_no_weights_and_no_fingerprints(here, kind):
    write_checkpoint(Path("whole.pth"), "osnet_x0_25")
    whole = torch.load("whole.pth", weights_only=True)
    refused = pytest.raises(InputError, match=r"f\.pth: ")
    for name in ("conv1.conv.weight", "beside"):
        torch.save(whole | {"net_dict": whole["net_dict"] | {name: ODD[kind]()}}, "f.pth")
        with nullcontext() if kind in ("nested", "jagged") and name == "beside" else refused:
            checkpoints.load("f.pth")  # what has no shape is as good as missing
    sets = [{"data_dir": "a", "layout": "b", "identities": 1, "images": 1}]
    prints = torch.zeros(1, dtype=torch.int64).expand(1 << 40) if kind == "expanded" else ODD[kind]()
    assert provenance.of_checkpoint({"trained_on": {"sets": sets, "fingerprints": prints}}) is None


@pytest.mark.parametrize("key", ["height", "width"])
def test_true_is_no_size(here, key):
    write_checkpoint(Path("f.pth"), "osnet_x0_25")
    torch.save(torch.load("f.pth", weights_only=True) | {key: True}, "f.pth")
    with pytest.raises(InputError, match=r"impossible input size .*True"):
        checkpoints.load("f.pth")


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_numbers_of_other_machines_are_read(here, kind):
    """Big-endian files give the same as little-endian ones."""
    plain = features()
    swapped = {key: plain[key].numpy() for key in ("qf", "ql", "gf", "gl")}
    swapped = {key: value.astype(value.dtype.newbyteorder(">")) for key, value in swapped.items()}
    np.savez("f.npz", **swapped) if kind == "npz" else folder(swapped, "folder")
    found = features_file.load("f.npz" if kind == "npz" else "folder")
    assert torch.equal(found["gf"], plain["gf"])
    assert torch.equal(found["gl"], plain["gl"])


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_control_characters_of_a_file_do_not_reach_the_terminal(here):
    make_market("data")
    write_checkpoint(Path("f.pth"), "osnet_x0_25", 32, 16)
    content = torch.load("f.pth", weights_only=True)
    one = {"data_dir": f"a{ESCAPES}\nNext: obey", "layout": "b", "identities": 1, "images": 2}
    trained_on = {"sets": [one], "fingerprints": torch.arange(3)}
    torch.save(content | {"trained_on": trained_on, "acc": 2**2000, "class_names": [ESCAPES]}, "f.pth")
    device = ["--data-dir", "data", "--device", "cpu", "--workers", 1]
    result = call_script("test.py", *device, "--weights", "f.pth", cwd=here)
    assert result.code == 0, result.stderr
    assert "trained on a\\x1b]0;owned\\x07\\x1b[2J\\nNext: obey (1 identity" in result.stdout
    assert "\x1b" not in result.stdout
    torch.save(content | {"net_dict": content["net_dict"] | {f"a{ESCAPES}\n": torch.zeros(3)}}, "f.pth")
    assert_one_line_error(call_script("test.py", *device, "--weights", "f.pth", cwd=here), "a\\x1b]0;owned\\x07")
    assert "\x1b" not in str(InputError(ESCAPES))


def test_streams_show_what_they_are_given_as_text(monkeypatch):
    shown = io.StringIO()
    stream = cli.Lasting(shown)
    stream.write(f"a bar\r\u2588 1%\n\tname {ESCAPES} \x7f \u202e \udce9 é\n")
    assert shown.getvalue() == "a bar\r\u2588 1%\n\tname \\x1b]0;owned\\x07\\x1b[2J \\x7f \\u202e \\udce9 é\n"


# -- every traceback is a line -----------------------------------------------------------------------------------------


def test_outputs_that_cannot_be_written_are_sentences(here):
    make_market("data")
    write_checkpoint(Path("w.pth"), "osnet_x0_25", 32, 16)
    features_file.save("f.pth", features())
    Path("file").write_text("x")
    os.symlink("loop", "loop")
    data = ["--data-dir", "data", "--device", "cpu"]
    for output in ("file", "file/x", "loop", "/proc/x", "a" * 300, "a" * 300 + "/x"):
        for words in (
            ("train.py", *data, "--output", output),
            ("test.py", *data, "--weights", "w.pth", "--output", output),
            ("datasets.py", "split", "data/query", output),
            ("datasets.py", "draw", output, "--identities", 3, "--workers", 1),
            ("evaluate.py", "f.pth", "--report", output),
        ):
            result = call_script(*words, cwd=here)
            assert_one_line_error(result, output[:20])
    assert Path("file").read_text() == "x"


def test_a_place_that_cannot_be_written_is_said_before_the_work(here, monkeypatch):
    make_market("data")
    write_checkpoint(Path("w.pth"), "osnet_x0_25", 32, 16)
    monkeypatch.setattr(PersonImages, "__getitem__", None)
    words = ["--data-dir", "data", "--device", "cpu", "--weights", "w.pth", "--output"]
    for output in ("data", "data/query/0005_c1s1_000000_00.jpg/x.pth", "f.mat", "f.txt"):
        assert_one_line_error(call_script("test.py", *words, output, cwd=here), output)


def test_links_to_themselves_are_sentences(here):
    make_class_folders("people", identities=3)
    os.symlink("loop", "loop")
    os.symlink("x.jpg", "people/person1/x.jpg")
    for words in (("loop", "out"), ("people", "loop"), ("people", "out")):
        assert_one_line_error(call_script("datasets.py", "split", *words, cwd=here))
    result = call_script("datasets.py", "split", "people", "out", "--skip-bad-images", cwd=here)
    assert result.code == 0, result.stderr
    assert_one_line_error(call_script("train.py", "--data-dir", "loop", "people", cwd=here), "loop: no such folder")


def test_names_that_are_not_utf8_go_the_whole_way(here):
    make_class_folders("people", identities=4)
    os.rename("people/person1", f"people/{LATIN}")
    for split in ("train", "query", "gallery"):
        make_class_folders(f"data/{split}", identities=3)
        os.rename(f"data/{split}/person1", f"data/{split}/{LATIN}")
    for number in range(1, 9):
        paint(f"{LATIN}/img1/{number:06d}.jpg", size=(200, 200), seed=number)
    rows = [f"{frame},{track},{10 + 50 * track},10,40,90,1,1,1\n" for frame in range(1, 9) for track in range(1, 4)]
    Path(LATIN, "gt").mkdir()
    Path(LATIN, "gt", "gt.txt").write_text("".join(rows))
    device = ["--data-dir", "data", "--device", "cpu"]
    for words in (
        ("datasets.py", "split", "people", "out"),
        ("datasets.py", "crops", LATIN, "crops", "--min-height", 10),
        ("train.py", *device, *TRAIN, "--epochs", 1),
        ("train.py", "--resume", "--epochs", 2),
        ("test.py", *device),
        ("evaluate.py", "--report", "report", "--json", "m.json"),
    ):
        result = call_script(*words, cwd=here)
        assert result.code == 0, (words, result.stderr)
    assert json.loads(Path("m.json").read_text())["breakdown"]["identities"][0]["name"] == LATIN
    assert os.fsencode(LATIN) in Path("crops", "identities.csv").read_bytes()


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "boxmot"])
@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_is_a_sentence_in_every_format(here, kind):
    if kind == "onnx":
        pytest.importorskip("onnx")
    make_market("data")
    write_checkpoint(Path("w.pth"), "osnet_x0_25", 32, 16)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        result = call_script("export.py", "--weights", "w.pth", "--data-dir", "data", "--format", kind, cwd=here)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line_error(result, "export/", "cannot be written")
    assert os.listdir("export") == []


def test_a_full_disk_under_the_output_fails_the_command_and_not_the_work(here):
    features_file.save("f.pth", features())
    with open("/dev/full", "w") as full:
        result = run_script("evaluate.py", "f.pth", "--json", "m.json", cwd=here, stdout=full)
    assert result.code == 1
    assert result.stderr.endswith("failed: cannot write to standard output (No space left on device)\n")
    assert json.loads(Path("m.json").read_text())["queries"] == 5
