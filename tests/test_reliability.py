"""Nothing is lost: kills, full disks, broken files, lost processes. The long forms are in `benchmarks/`."""

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_one_line_error, call_script, make_market, paint, run_script, script_environment
from PIL import Image, ImageOps

import train
from appearance import distributed
from appearance.cli import InputError, RunFailed
from appearance.failures import explained_failures
from appearance.files import claimed
from appearance.measure import embed, features_file
from appearance.networks import checkpoints
from appearance.training import resume
from appearance.training.run import StopRequest

TINY = ["--model", "osnet_x0_25", "--height", 32, "--width", 16, "--workers", 1, "--batch_size", 8, "--device", "cpu"]
TINY += ["--amp", "fp32"]  # auto measures, and two runs may find another answer
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a small dataset in `data`."""
    make_market(tmp_path / "data", train_ids=6, images=6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments) -> None:
    """train.py in this process."""
    train.main(train.get_args_parser().parse_args([str(a) for a in arguments]))


def train_on_data(*flags) -> None:
    run("--data-dir", "data", *TINY, *flags)


def spawn(*command, cwd, **environment) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(c) for c in command], cwd=cwd, env=script_environment(**environment), **pipes)


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# -- kills -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["--runs", 1], ["--runs", 1, "--group"]], ids=["one process", "two processes"])
def test_killed_runs_end_bit_identical(flags, tmp_path):
    result = run_script("benchmarks/kill_test.py", *flags, cwd=tmp_path, timeout=400)
    figures = json.loads(result.stdout)
    assert figures["identical"] == figures["runs"], result.stderr


def test_leftovers_of_a_killed_save_are_removed(here):
    unfinished = here / "run" / ".last.pth.x1y2.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "last.pth").write_bytes(b"half")
    train_on_data("--epochs", 1, "--output", "run")
    assert sorted(files_of("run")) == ["best.pth", "curves.png", "history.csv", "last.pth"]


def test_a_kill_between_the_files_of_an_epoch_repeats_that_epoch(here, monkeypatch):
    class Killed(Exception):
        pass

    def killed(run):
        raise Killed

    train_on_data("--epochs", 2, "--output", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "save", killed)
        with pytest.raises(Killed):
            train_on_data("--epochs", 2, "--output", "parts")
    assert sorted(files_of("parts")) == ["best.pth", "curves.png", "history.csv"]
    with pytest.raises(InputError, match="already has a run"):  # nothing to resume from, and weights to lose
        train_on_data("--epochs", 2, "--output", "parts")
    train_on_data("--epochs", 2, "--output", "parts", "--overwrite")
    whole, parts = (torch.load(f"{name}/last.pth", weights_only=True)["net_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize("sent", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGHUP]], ids=["SIGTERM", "SIGHUP twice"])
def test_a_signal_saves_and_says_how_to_go_on(here, sent):
    process = spawn(sys.executable, ROOT / "train.py", "--data-dir", "data", *TINY, "--epochs", 500, cwd=here)
    while not (here / "checkpoint" / "last.pth").exists() and process.poll() is None:
        time.sleep(0.05)
    for number in sent:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + sent[0]
    assert f"Stopped by {sent[0].name}" in errors
    assert "--resume checkpoint/last.pth" in errors
    assert checkpoints.load("checkpoint/last.pth").extra["step"] > 0


def test_nohup_keeps_its_promise():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_is_stopped_at_the_last_step_of_an_epoch_goes_on(here, monkeypatch):
    train_on_data("--epochs", 2, "--output", "whole")
    end_step = train.Run.end_step

    def stop_at_the_last(self, *measured):
        if self.step + 1 == len(self.order):
            os.kill(os.getpid(), signal.SIGTERM)
        end_step(self, *measured)

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "end_step", stop_at_the_last)
        with pytest.raises(SystemExit):
            train_on_data("--epochs", 2)
    run("--resume")
    whole, parts = (torch.load(f"{name}/last.pth", weights_only=True)["net_dict"] for name in ("whole", "checkpoint"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_extraction_that_is_killed_leaves_the_old_features(here):
    train_on_data("--epochs", 1)
    first = call_script("test.py", "--data-dir", "data", "--device", "cpu", cwd=here)
    assert first.code == 0, first.stderr
    before = (here / "features.pth").read_bytes()
    process = spawn(sys.executable, ROOT / "test.py", "--data-dir", "data", "--device", "cpu", cwd=here)
    process.stdout.readline()  # it has begun
    process.kill()
    process.communicate()
    assert (here / "features.pth").read_bytes() == before
    assert call_script("test.py", "--data-dir", "data", "--device", "cpu", cwd=here).code == 0


# -- folders and disks -------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_last_good_checkpoint(here):
    train_on_data("--epochs", 1)
    before = files_of("checkpoint")
    largest = len(before["last.pth"]) // 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        result = call_script("train.py", "--resume", "--epochs", 2, cwd=here)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line_error(result, "checkpoint/", "cannot be written", "an existing file is unchanged")
    after = files_of("checkpoint")
    assert after["last.pth"] == before["last.pth"]
    assert sorted(after) == sorted(before)
    assert checkpoints.load("checkpoint/last.pth").extra["epoch"] == 1
    run("--resume", "--epochs", 2)
    assert checkpoints.load("checkpoint/last.pth").extra["epoch"] == 2


@contextmanager
def heeding_permissions():
    """Makes this process, if it is root's, heed permissions as everybody else has to."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    yield
    sets[0] = effective
    libc.capset(header, sets)


def test_permissions_that_are_missing_are_sentences(here):
    (here / "readonly").mkdir(mode=0o500)
    image = here / "data" / "query" / "0007_c1s1_000000_00.jpg"
    image.chmod(0)
    with heeding_permissions():
        result = call_script("train.py", "--data-dir", "data", "--output", "readonly/run", cwd=here)
        assert_one_line_error(result, "--output readonly/run: cannot be written (Permission denied)")
        result = call_script("datasets.py", "check", "data", cwd=here)
        assert_one_line_error(result, "1 of 1 problems")
        assert f"{image.relative_to(here)}: cannot be read as an image (Permission denied)" in result.stdout
        image.parent.chmod(0)
        result = call_script("datasets.py", "check", "data", cwd=here)
        assert_one_line_error(result, "data/query: cannot be read (Permission denied)")
        image.parent.chmod(0o700)


def test_an_output_folder_is_written_by_one_run_at_a_time(here):
    with claimed(here / "run"):
        with pytest.raises(InputError, match="another run is writing"), claimed(here / "run", patience=0):
            pass
        with claimed(here / "other"):
            pass
    with claimed(here / "run", patience=0):
        pass


@pytest.mark.parametrize("name", ["best.pth", "history.csv"])
def test_any_file_of_a_run_is_a_run(here, name):
    Path("checkpoint").mkdir()
    Path("checkpoint", name).write_bytes(b"precious")
    with pytest.raises(InputError, match=rf"already has a run \({name}\); move it away"):
        train_on_data("--epochs", 1)
    assert files_of("checkpoint") == {name: b"precious"}


def test_overwriting_loses_nothing_before_the_new_run_can_start(here):
    """Wrong data, weights, batches and images, and a run that is writing there: the old run stays as it was."""
    Path("checkpoint").mkdir()
    for name in ("last.pth", "best.pth", "history.csv", "curves.png"):
        Path("checkpoint", name).write_bytes(name.encode())
    before = files_of("checkpoint")
    make_market(here / "broken", train_ids=6, images=6)
    next((here / "broken" / "bounding_box_train").iterdir()).write_bytes(b"no image")
    flags = ["--epochs", 1, "--overwrite", *TINY]
    for wrong in (
        ["--data-dir", "nowhere"],
        ["--data-dir", "data", "--weights", "nowhere.pth"],
        ["--data-dir", "data", "--teacher", "nowhere.pth"],
        ["--data-dir", "data", "--batch_size", 1],
        ["--data-dir", "broken"],
    ):
        assert call_script("train.py", *flags, *wrong, cwd=here).code == 2
        assert files_of("checkpoint") == before, wrong
    with claimed(here / "checkpoint"):
        result = call_script("train.py", *flags, "--data-dir", "data", cwd=here)
    assert_one_line_error(result, "another run is writing to this folder")
    assert files_of("checkpoint") == before
    train_on_data("--epochs", 1, "--overwrite")
    assert all(content != before.get(name) for name, content in files_of("checkpoint").items())


def test_a_restart_goes_on_with_its_own_run_and_no_other(here, monkeypatch):
    """torchrun's count of restarts does not decide: what was written since torchrun started does."""
    train_on_data("--epochs", 1)
    args = train.get_args_parser().parse_args(["--epochs", "2"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    _, resumed, recipe = resume.find(args)
    assert (resumed.extra["epoch"], recipe.epochs) == (1, 2)
    os.utime("checkpoint/last.pth", (0, 0))  # of long ago
    args = train.get_args_parser().parse_args(["--epochs", "2"])
    with pytest.raises(InputError, match="already has a run"):
        resume.find(args)


def test_a_dataset_that_vanishes_is_named_and_the_run_can_go_on(here, monkeypatch):
    end_epoch = train.Run.end_epoch

    def end_then_lose_data(self, measured, score):
        end_epoch(self, measured, score)
        os.rename("data", "elsewhere")

    flags = ["--epochs", 2, "--cache", "none", "--workers", 0]
    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "end_epoch", end_then_lose_data)
        with pytest.raises(InputError, match=r"data/bounding_box_train/.*missing"):
            train_on_data(*flags)
    assert checkpoints.load("checkpoint/last.pth").extra["epoch"] == 1
    run("--resume", "--data-dir", "elsewhere")  # the same images in another place
    assert checkpoints.load("checkpoint/last.pth").extra["epoch"] == 2


def delete(folder):
    shutil.rmtree(folder)


def put_another_in_its_place(folder):
    """What unmounting shows: the folder that was mounted over."""
    os.rename(folder, f"{folder} on its disk")
    os.mkdir(folder)


@pytest.mark.parametrize("lose", [delete, put_another_in_its_place])
def test_a_run_whose_folder_is_lost_is_saved_elsewhere_and_goes_on_there(here, lose, monkeypatch):
    train_on_data("--epochs", 3, "--output", "whole")
    end_epoch = train.Run.end_epoch

    def end_then_lose(self, measured, score):
        end_epoch(self, measured, score)
        self._writer.wait()
        if self.epoch == 1:
            lose("checkpoint")

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "end_epoch", end_then_lose)
        result = call_script("train.py", "--data-dir", "data", *TINY, "--epochs", 3, cwd=here)
    assert_one_line_error(result, "--output checkpoint: was deleted or unmounted in mid-run; saved in ", "Go on with: ")
    assert not Path("checkpoint").exists() or not os.listdir("checkpoint")
    _, _, flags = result.stderr.strip().partition("train.py --resume ")
    last, _, folder = flags.partition(" --output ")
    assert checkpoints.load(last).extra["epoch"] == 2
    run("--resume", last, "--output", folder)
    whole, parts = (torch.load(f"{name}/last.pth", weights_only=True)["net_dict"] for name in ("whole", folder))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert sorted(files_of(folder)) == sorted(files_of("whole"))


def test_torchrun_does_not_restart_a_run_in_the_place_of_its_lost_folder(here, monkeypatch):
    train_on_data("--epochs", 1, "--output", "checkpoint-rescued-x1y2")
    args = train.get_args_parser().parse_args(["--epochs", "2"])
    assert resume.find(args)[1] is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(InputError, match=r"--output checkpoint: was deleted or .*checkpoint-rescued-x1y2"):
        resume.find(args)


def test_features_whose_folder_is_lost_are_saved_elsewhere(here, monkeypatch):
    extract = embed.test_features

    def extract_and_lose(*args, **kwargs):
        put_another_in_its_place("out")
        return extract(*args, **kwargs)

    monkeypatch.setattr(embed, "test_features", extract_and_lose)
    result = call_script("test.py", "--data-dir", "data", "--device", "cpu", "--output", "out/found.pth", cwd=here)
    assert_one_line_error(result, "--output out: was deleted or unmounted in mid-run; saved as ")
    assert not os.listdir("out")
    assert len(features_file.load(result.stderr.strip().rpartition(" as ")[2].split()[0])["qf"]) == 6


# -- divergence --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_rate_and_batch(here):
    flags = ["--lr", 1e30, "--optimizer", "sgd", "--clip", 0, "--warmup", 0, "--epochs", 3]
    result = call_script("train.py", "--data-dir", "data", *TINY, *flags, cwd=here)
    assert_one_line_error(result, "failed: the loss is NaN or infinite at step 2 of epoch 1", "batch of 8: 000", code=1)
    assert "learning rate 9.7e+29" in result.stderr  # 2 of 18 steps down the cosine
    assert files_of("checkpoint") == {}


def test_weights_that_are_not_finite_are_never_saved(here, monkeypatch):
    train_on_data("--epochs", 1)
    before = files_of("checkpoint")
    measure = train.schedule.is_precise

    def poisoned(recipe, epoch):  # after the last step of an epoch, whose loss was finite
        poison.conv1.conv.weight.data[0] = float("nan")
        return measure(recipe, epoch)

    class Poison(train.Run):
        def begin_epoch(self, *arguments):
            nonlocal poison
            poison = self.net
            super().begin_epoch(*arguments)

    poison = None
    monkeypatch.setattr(train, "Run", Poison)
    monkeypatch.setattr(train.schedule, "is_precise", poisoned)
    with pytest.raises(RunFailed, match="weights are NaN or infinite"):
        run("--resume", "--epochs", 2)
    assert {name: files_of("checkpoint")[name] for name in ("best.pth", "last.pth")} == {
        name: before[name] for name in ("best.pth", "last.pth")
    }


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_bad_images_stop_the_training_with_the_list_or_are_left_out(here, cache, capsys):
    train_folder = here / "data" / "bounding_box_train"
    bad = [train_folder / "0001_c1s1_000000_00.jpg", train_folder / "0002_c2s1_000001_00.jpg"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(b"GIF89a nonsense")
    with pytest.raises(InputError) as caught:
        train_on_data("--epochs", 1, "--cache", cache, "--val-ratio", 0)
    assert all(path.name in str(caught.value) for path in bad)
    assert "--skip-bad-images" in str(caught.value)
    query = here / "data" / "query" / "0007_c1s1_000000_00.jpg"
    query.write_bytes(query.read_bytes()[:100])
    with pytest.raises(InputError, match=query.name):
        train_on_data("--epochs", 1)
    train_on_data("--epochs", 1, "--cache", cache, "--skip-bad-images")
    assert "Left out 3 of" in capsys.readouterr().out
    assert checkpoints.load("checkpoint/last.pth").extra["epoch"] == 1


def test_mutated_files_end_with_a_sentence(tmp_path):
    result = run_script("benchmarks/fuzz_test.py", "--images", 40, "--files", 40, cwd=tmp_path, timeout=400)
    figures = json.loads(result.stdout)
    assert figures["failures"] == []
    for tried in (figures["images"], figures["files"]):
        assert sum(ends.get("refused", 0) for ends in tried["kinds"].values()) > 10


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_a_damaged_last_checkpoint_is_refused(here):
    train_on_data("--epochs", 1)
    whole = torch.load("checkpoint/last.pth", weights_only=True)
    for key, value in [("args", {"model": "resnet19"}), ("recipe", {"lr": 1.0}), ("history", 3), ("buffers", None)]:
        torch.save(whole | {key: value}, "odd.pth")
        with pytest.raises(InputError, match=r"odd\.pth: not a valid last\.pth"):
            run("--resume", "odd.pth", "--epochs", 2)
    for key, value in [("optimizer", {}), ("objective", {}), ("buffers", [[]]), ("scheduler", {"last_epoch": "x"})]:
        torch.save(whole | {key: value}, "odd.pth")
        with pytest.raises(InputError, match="does not fit"):
            run("--resume", "odd.pth", "--epochs", 2)


def test_a_run_of_an_earlier_version_goes_on_unless_it_used_what_is_gone(here):
    """Its recipe stood among its flags, and its losses had other names."""
    train_on_data("--epochs", 1, "--output", "old")
    train_on_data("--epochs", 1, "--output", "new")
    last = torch.load("old/last.pth", weights_only=True)
    last["args"] |= last.pop("recipe") | {"ema": 0.0, "metric_weight": 1.0, "scale": 20.0, "cache_dir": "data/cache"}
    last["objective"]["heads.cosine.weight"] = last["objective"].pop("cosine.weight")
    torch.save(last | {"average": None}, "old/last.pth")
    for name in ("old", "new"):
        run("--resume", "--output", name, "--epochs", 2)
    old, new = (torch.load(f"{name}/last.pth", weights_only=True) for name in ("old", "new"))
    assert all(torch.equal(old["net_dict"][key], value) for key, value in new["net_dict"].items())
    assert old["recipe"] == new["recipe"]
    for gone, told in (({"ema": 0.9}, "--ema 0.9"), ({"metric_loss": "arcface"}, "--metric-loss arcface")):
        torch.save(last | {"args": last["args"] | gone}, "gone.pth")
        with pytest.raises(
            InputError, match=rf"gone\.pth: was trained with {told}, which no longer exists; start a new run"
        ):
            run("--resume", "gone.pth", "--epochs", 2)


def swap_two_people(data):
    train = data / "bounding_box_train"
    for one, other in zip(sorted(train.glob("0001*")), sorted(train.glob("0002*")), strict=True):
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)


def invert_everything(data):
    for path in (data / "bounding_box_train").iterdir():
        with Image.open(path) as image:
            ImageOps.invert(image).save(path)


def move_an_image(data):
    train = data / "bounding_box_train"
    os.rename(train / "0001_c1s1_000000_00.bmp", train / "0002_c1s1_000900_00.bmp")


def replace_a_query(data):
    paint(data / "query" / "0007_c1s1_000000_00.bmp", (1, 2, 3), size=(20, 40))


CHANGES = {
    swap_two_people: r"train: 12 of 36 images differ in name, identity or content: bounding_box_train/0001_c1s1_",
    invert_everything: "train: 36 of 36 images differ",
    move_an_image: r"train: 1 of 36 images differ.*: bounding_box_train/0002_c1s1_000900_00\.bmp",
    replace_a_query: r"query: 1 of 6 images differ.*: query/0007_c1s1_000000_00\.bmp",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_with_its_own_data_alone(here, change):
    """Images without compression keep the size of their files whatever they show."""
    for path in (here / "data").rglob("*.jpg"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    train_on_data("--epochs", 1)
    before = files_of("checkpoint")
    change(here / "data")
    with pytest.raises(
        InputError, match=r"--resume checkpoint/last\.pth: was trained on other data.*" + CHANGES[change]
    ):
        run("--resume", "--epochs", 2)
    assert files_of("checkpoint") == before


# -- several processes -------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_peers_that_never_come_are_a_sentence(here):
    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    begin = time.monotonic()
    result = run_script(
        "train_multiGPU.py", "--data-dir", "data", "--device", "cpu", "--timeout", 2, cwd=here, **environment
    )
    lines = [line for line in result.stderr.splitlines() if "train_multiGPU.py: " in line]
    assert result.code == 2, result.stderr
    assert len(lines) == 1
    assert "--timeout" in lines[0] or "cannot connect the processes" in lines[0]
    assert "Traceback" not in result.stderr
    assert time.monotonic() - begin < 60


def test_a_peer_that_stops_answering_is_a_sentence(here):
    flags = ["--data-dir", "data", *TINY, "--epochs", 1000, "--timeout", 3]
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    first, second = (
        spawn(sys.executable, ROOT / "train_multiGPU.py", *flags, cwd=here, RANK=str(rank), **where) for rank in (0, 1)
    )
    while not (here / "checkpoint" / "last.pth").exists() and first.poll() is None:
        time.sleep(0.05)
    second.send_signal(signal.SIGSTOP)
    try:
        _, errors = first.communicate(timeout=60)
    finally:
        second.kill()
        second.communicate()
    assert first.returncode == 1, errors
    assert errors.count("failed: another process failed or does not answer") == 1
    assert "Traceback" not in errors


def two_machines(here, own: list[list], *flags, script="train_multiGPU.py", other=None, timeout: float = 300) -> list:
    """Two processes, each with flags of its own as on a machine of its own: their exit codes, stdout and stderr.

    Args:
        other: working folder of the second.
    """
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_RANK": "0"}
    processes = [
        spawn(sys.executable, ROOT / script, *flags, *own[rank], cwd=folder, RANK=str(rank), **where)
        for rank, folder in enumerate((here, other or here))
    ]
    ends = [process.communicate(timeout=timeout) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, ends, strict=True)]


def another_image(data):
    paint(data / "bounding_box_train" / "0001_c1s1_000000_00.jpg", (1, 2, 3), size=(40, 80))


def an_image_less(data):
    (data / "bounding_box_train" / "0001_c1s1_000000_00.jpg").unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_image, "train: 1 of 36 images differ in name, identity or content: bounding_box_train/0001_c1s1"),
        (an_image_less, "train: 35 images instead of 36"),
    ],
)
def test_other_data_on_another_machine_is_refused_there_and_here(here, change, told):
    make_market(here / "theirs", train_ids=6, images=6)
    change(here / "theirs")
    flags = [*TINY, "--epochs", 1]
    for code, _, errors in two_machines(here, [["--data-dir", "data"], ["--data-dir", "theirs"]], *flags):
        assert code == 2, errors
        assert f"(rank 1): --data-dir theirs: {told}" in errors
    assert not Path("checkpoint", "last.pth").exists()


def test_what_belongs_to_a_machine_may_be_another_there(here):
    """The data set elsewhere, with unreadable images left out, another number of workers and another cache."""
    for root in ("data", "machine/theirs"):
        make_market(here / root, train_ids=6, images=6)
        (here / root / "bounding_box_train" / "0001_c1s1_000000_00.jpg").write_bytes(b"no image")
    flags = [*TINY, "--epochs", 1, "--skip-bad-images"]
    own = [["--data-dir", "data", "--cache", "ram"], ["--data-dir", "theirs", "--workers", 2, "--output", "unused"]]
    for rank, (code, output, errors) in enumerate(two_machines(here, own, *flags, other=here / "machine")):
        assert code == 0, errors
        assert ("Left out 1 of 56 images" in output) == (rank == 0)
    assert [path.name for path in Path("machine").iterdir()] == ["theirs"]
    first = two_machines(here, [["--data-dir", "data"], []], "--resume", "--epochs", 2, other=here / "machine")
    assert "data: no such folder" in first[1][2]  # the run's folder is none of that machine
    own = [[], ["--data-dir", "theirs"]]
    for code, _, errors in two_machines(here, own, "--resume", "--epochs", 2, other=here / "machine"):
        assert code == 0, errors
    assert checkpoints.load("checkpoint/last.pth").extra["epoch"] == 2


def test_other_flags_are_the_same_for_all(here):
    train_on_data("--epochs", 1, "--output", "one")
    train_on_data("--epochs", 1, "--output", "two", "--seed", 1)
    os.makedirs("copy")
    shutil.copy("one/best.pth", "copy/best.pth")
    flags = ["--data-dir", "data", *TINY]
    for code, _, errors in two_machines(here, [["--epochs", 1], ["--epochs", 2]], *flags):
        assert code == 2, errors
        assert "(rank 1): --epochs is 2, but 1 on rank 0" in errors
    known = {flag: distributed._comparable("weights", f"{flag}/best.pth") for flag in ("one", "two", "copy")}
    assert distributed._other_flag({"weights": known["one"]}, {"weights": known["copy"]}) == ""
    resumed = [{"resume": distributed._comparable("resume", value)} for value in ("last.pth", None)]
    assert distributed._other_flag(*resumed) == "--resume is not given, but given on rank 0"
    weights = [["--weights", "one/best.pth"], ["--weights", "two/best.pth"]]
    for code, _, errors in two_machines(here, weights, "--data-dir", "data", "--device", "cpu", script="test.py"):
        assert code == 2, errors
        assert "(rank 1): --weights is two/best.pth (content " in errors


def test_a_restarted_group_does_not_read_what_the_dead_wrote():
    store = torch.distributed.HashStore()

    def meet() -> list:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda rank: distributed._unused_part(store, rank, 2, 20.0), (0, 1)))

    first, second = meet()
    first.set("address", "of the dead")
    assert second.get("address") == b"of the dead"
    for again in meet():
        assert not again.check(["address"])
    with pytest.raises(TimeoutError, match="--timeout"):
        distributed._unused_part(store, 0, 2, 0.2)  # rank 1 is only there by its old name


def test_out_of_memory_says_what_helps(here, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(train, "train_step", full)
    with pytest.raises(RunFailed, match=r"^out of memory; lower --batch_size, or run it in parts with --accumulate 2$"):
        train_on_data("--epochs", 1)
    with pytest.raises(RuntimeError, match="a bug"), explained_failures("do this"):
        raise RuntimeError("a bug")


def test_a_bad_image_ends_the_whole_group_and_is_named_once(here):
    bad = here / "data" / "bounding_box_train" / "0001_c1s1_000000_00.jpg"
    bad.write_bytes(b"")
    script = [ROOT / "train_multiGPU.py", "--data-dir", "data", *TINY, "--val-ratio", 0]
    group = spawn(*TORCHRUN, "--standalone", "--nproc_per_node=2", *script, cwd=here)
    _, errors = group.communicate(timeout=120)
    assert group.returncode != 0
    assert errors.count(f"{bad.name}: cannot be read") == 1, errors
    assert not (here / "checkpoint" / "last.pth").exists()


def test_two_nodes_train_and_agree(here):
    """Two agents on this machine meet as two machines would."""
    port, nodes = free_port(), []
    for node in (0, 1):
        script = [ROOT / "tests/two_processes.py", here / "report", "--data-dir", "data", *TINY, "--epochs", 2]
        meet = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}"]
        output = ["--output", here / f"node{node}"]
        nodes.append(spawn(*TORCHRUN, *meet, "--rdzv_id=7", *script, *output, cwd=here))
    for node in nodes:
        _, errors = node.communicate(timeout=180)
        assert node.returncode == 0, errors
    first, second = (torch.load(here / f"report.rank{rank}", weights_only=True)["weights"] for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(list(here.glob("node*/last.pth"))) == 1  # rank 0 alone writes
