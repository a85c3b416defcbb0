"""Training as a user runs it: one process, two processes, resume, pretrained weights, user errors."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import assert_one_line_error, call_script, make_class_folders
from recipes import chosen, recipe_of

import datasets
import train
import train_multiGPU
from appearance.cli import InputError, RunFailed
from appearance.data import layouts
from appearance.drawn import sample
from appearance.networks import checkpoints, precision
from appearance.training import measurements, messages, schedule
from appearance.training.recipe import FEW_PEOPLE, Facts
from model import Net

ROOT = Path(__file__).parent.parent
TINY = ["--height", "32", "--width", "16", "--workers", "1"]
SMALL = [*TINY, "--model", "osnet_x0_25"]  # the lightest network: the loop is what is tested
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A sample of 12 identities: 8 to train on, 4 to test with."""
    return sample.ensure(tmp_path_factory.mktemp("data") / "sample", identities=12, workers=1)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, parser=None):
    """train.py in this process."""
    train.main((parser or train.get_args_parser()).parse_args([str(a) for a in arguments]))


def command(*arguments, cwd) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("RANK", None)
    return subprocess.run(
        [str(a) for a in arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_train_test_evaluate_as_a_user_runs_them(data, here):
    trained = command(
        sys.executable, ROOT / "train.py", "--data-dir", data, "--epochs", 2, "--progressive", *TINY, cwd=here
    )
    assert trained.returncode == 0, trained.stderr
    assert f"Next: python {ROOT / 'test.py'} --data-dir {data}\n" in trained.stdout
    assert sorted(p.name for p in (here / "checkpoint").iterdir()) == [
        *("best.pth", "curves.png", "history.csv", "last.pth")
    ]
    rows = list(csv.DictReader((here / "checkpoint/history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [(row["height"], row["width"]) for row in rows] == [("24", "16"), ("32", "16")]
    assert all(0 <= float(row["val_acc"]) <= 1 and float(row["train_loss"]) > 0 for row in rows)
    assert (here / "checkpoint/curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    best = torch.load(here / "checkpoint/best.pth", weights_only=True)
    assert {"net_dict", "acc", "epoch", "arch", "num_classes", "height", "width", "class_names", "args"} <= set(best)
    assert (best["arch"], best["num_classes"], best["height"], best["width"]) == ("net", 8, 32, 16)
    assert best["net_dict"].keys() == Net(8).state_dict().keys()
    assert best["acc"] == pytest.approx(100 * float(rows[1]["val_acc"]))

    tested = call_script("test.py", "--data-dir", data, cwd=here)
    assert tested.code == 0, tested.stderr
    evaluated = call_script("evaluate.py", "--json", "metrics.json", cwd=here)
    assert evaluated.code == 0, evaluated.stderr
    metrics = json.loads((here / "metrics.json").read_text())
    # the last epoch's test during training is the same measurement
    assert metrics["mAP"] == pytest.approx(float(rows[1]["mAP"]), abs=1e-6)
    assert metrics["rank1"] == pytest.approx(float(rows[1]["rank1"]), abs=1e-6)


def test_a_network_learns_its_training_images(here):
    """Four people, each in a colour."""
    flags = ["--val-ratio", 0, "--batch_size", 16, "--no-progressive", "--erase", 0, "--jitter", 0]
    run("--data-dir", make_class_folders(here / "people", images=8), "--epochs", 4, *flags, *TINY)
    history = torch.load(here / "checkpoint/last.pth", weights_only=True)["history"]
    assert history[-1]["train_acc"] > 0.9 > 0.7 > history[0]["train_acc"]
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]


def test_deepsort_recipe_and_other_networks_train(data, here):
    run("--data-dir", data, "--epochs", 1, "--recipe", "deepsort", "--model", "resnet18", "--cache", "none", *TINY)
    best = checkpoints.load(here / "checkpoint/best.pth")
    assert best.arch == "resnet18"
    assert best.model_options == {"last_stride": 1, "pooling": "avg", "neck": "none"}
    assert best.extra["recipe"]["optimizer"] == "sgd"


def test_a_batch_in_parts_and_the_circle_loss(data, here):
    run(
        *("--data-dir", data, "--epochs", 1, "--metric-loss", "cosine+circle"),
        *("--accumulate", 2, "--batch_size", 16, "--margin", 0.2, "--eval-interval", 9, *SMALL),
    )
    history = torch.load(here / "checkpoint/last.pth", weights_only=True)["history"]
    assert 0 < history[0]["train_loss"] < 60


def test_auto_arithmetic_is_measured_once_a_run(data, here, monkeypatch):
    def amp():
        return torch.load(here / "checkpoint/last.pth", weights_only=True)["recipe"]["amp"]

    monkeypatch.setattr(measurements, "fastest_precision", lambda *_: "bf16")
    run("--data-dir", data, "--epochs", 1, *SMALL)
    assert amp() == "bf16"
    monkeypatch.setattr(measurements, "fastest_precision", lambda *_: "fp32")
    run("--resume", "--epochs", 2)
    assert amp() == "bf16"
    run("--data-dir", data, "--epochs", 1, "--output", "checkpoint", "--overwrite", *SMALL)
    assert amp() == "fp32"


@pytest.mark.parametrize(("bf16_seconds", "faster"), [(0.5, "bf16"), (0.95, "fp32"), (3.0, "fp32")])
def test_a_cpu_takes_bfloat16_where_it_is_clearly_faster(monkeypatch, bf16_seconds, faster):
    clock = [0.0]

    def autocast(device, precision):
        clock[0] += bf16_seconds if precision == "bf16" else 1.0
        return nullcontext()

    monkeypatch.setattr(precision, "emulates", lambda *_: False)
    monkeypatch.setattr(precision, "autocast", autocast)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    net = Net(2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert precision.fastest_precision(net, 32, 16, torch.device("cpu")) == faster
    assert same(net.state_dict(), before)  # BatchNorm's statistics did not move


@pytest.mark.parametrize(("times_slower", "emulated"), [(70, True), (1.5, False), (0.5, False)])
def test_a_cpu_that_emulates_an_arithmetic_is_told_by_a_small_product(monkeypatch, times_slower, emulated):
    clock = [0.0]

    class Matrix:
        def __init__(self, *_, dtype):
            self.seconds = 1.0 if dtype == torch.float32 else times_slower

        def __matmul__(self, other):
            clock[0] += self.seconds

    net, cpu = Net(2), torch.device("cpu")
    monkeypatch.setattr(precision.torch, "ones", Matrix)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    assert precision.emulates("bf16", cpu) is emulated
    assert not precision.emulates("fp32", cpu)
    if emulated:
        monkeypatch.setattr(precision, "autocast", None)  # the network is not measured
        assert precision.fastest_precision(net, 32, 16, cpu) == "fp32"


def test_who_asks_for_emulated_arithmetic_is_told(data, here, monkeypatch, capsys):
    monkeypatch.setattr(precision, "emulates", lambda name, device: name == "bf16")
    run("--data-dir", data, "--epochs", 1, "--amp", "bf16", *SMALL)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--amp" in line]
    assert line.startswith("warning: --amp bf16: this device has no hardware for it")
    assert line.endswith("use --amp fp32")
    run("--data-dir", data, "--epochs", 1, "--overwrite", *SMALL)  # by itself: fp32, and nothing to tell
    assert "--amp" not in capsys.readouterr().out


# -- several processes -------------------------------------------------------------------------------------------------


def reports(data, here, processes: int, *flags) -> list[dict]:
    launcher = TORCHRUN if processes == 2 else [sys.executable]
    script = [ROOT / "tests/two_processes.py", here / f"report{processes}", "--data-dir", data, *SMALL]
    output = ["--output", here / f"run{processes}", "--eval-interval", 1, *flags]
    result = command(*launcher, *script, *output, cwd=here)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "deprecated" not in result.stderr
    return [torch.load(here / f"report{processes}.rank{r}", weights_only=True) for r in range(processes)]


def test_two_processes_share_the_work_and_end_alike(data, here):
    flags = ["--epochs", 2, "--batch_size", 16, "--val-ratio", 0.2, "--sampler", "shuffle"]
    first, second = reports(data, here, 2, *flags)
    assert same(first["weights"], second["weights"])  # bit-identical, BatchNorm statistics included
    train_samples, val_samples = datasets.split_validation(layouts.find(data).train, 0.2, 0)
    for a, b in zip(first["trained"], second["trained"], strict=True):
        assert len(a) == len(b) > 0
        together = torch.cat([a, b])
        assert len(together.unique()) == len(together)  # no image twice in an epoch
        assert len(together) > len(train_samples) - 16
    scored = torch.cat(first["scored"] + second["scored"])
    assert sorted(scored.tolist()) == sorted(list(range(len(val_samples))) * 2)  # once in each of the two epochs


def test_two_processes_train_like_one(data, here):
    """The same global batches, augmentation and mining; with BatchNorm and dropout fixed the weights agree."""
    flags = ["--plain", "--epochs", 1, "--batch_size", 16, "--metric-loss", "triplet", "--sampler", "balanced"]
    flags += ["--optimizer", "sgd", "--lr", "0.01", "--no-progressive", "--amp", "fp32", "--no-precise-bn"]
    (one,) = reports(data, here, 1, *flags)
    two, _ = reports(data, here, 2, *flags)
    for key, value in one["weights"].items():
        if value.is_floating_point():
            assert torch.allclose(value, two["weights"][key], atol=1e-5), key


def test_multi_gpu_script_needs_torchrun_and_says_how(here):
    result = call_script("train_multiGPU.py", "--epochs", 3, cwd=here)
    assert_one_line_error(result, "torchrun --nproc_per_node=2 train_multiGPU.py --epochs 3")


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory) -> Path:
    """A resnet18 in torchvision's keys, under the name of its ImageNet file."""
    path = tmp_path_factory.mktemp("torchvision") / "resnet18-5c106cde.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_the_well_known_line_trains_a_resnet18_on_two_processes(data, here, torchvision_file):
    script = [ROOT / "train_multiGPU.py", "--device", "cpu", "--data-dir", data, "--epochs", 1, *TINY]
    flags = ["--weights", torchvision_file, "--freeze-layers", "--syncBN"]
    result = command(*TORCHRUN, *script, *flags, cwd=here)
    assert result.returncode == 0, result.stderr
    for told in ("resnet18 for", "Loaded 120 of 122 tensors", "note: --syncBN"):
        assert result.stdout.count(told) == 1
    trained = checkpoints.load("checkpoint/best.pth")
    assert trained.arch == "resnet18"
    for key, value in torch.load(torchvision_file, weights_only=True).items():
        assert key.startswith("fc.") or torch.equal(trained.net_dict[key], value), key


def test_the_number_of_processes_is_checked(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(InputError, match="--world_size 4"):
        train_multiGPU.main(train_multiGPU.get_args_parser().parse_args(["--world_size", "4"]))


# -- resume ------------------------------------------------------------------------------------------------------------

TIMES = ("seconds", "images_per_second")


def without_times(history: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history]


class Killed(Exception):
    pass


def test_resumed_run_is_bit_identical(data, here, monkeypatch, capsys):
    flags = ["--data-dir", data, "--epochs", 3, "--batch_size", 16, "--eval-interval", 1, *SMALL]
    flags += ["--amp", "fp32"]  # auto measures, and two runs may find another answer
    run(*flags, "--output", "start", "--epochs", 1)
    flags += ["--weights", "start/best.pth", "--keep-start", 0.4]
    run(*flags, "--output", "whole")
    count = 0
    step = train.train_step

    def dying_step(*args):
        nonlocal count
        count += 1
        if count in (8, 9):  # in the middle of the second epoch, and right after resuming
            raise Killed
        return step(*args)

    monkeypatch.setattr(train, "train_step", dying_step)
    with pytest.raises(Killed):
        run(*flags, "--output", "parts", "--save-interval", 2)
    with pytest.raises(Killed):
        run("--output", "parts", "--resume")
    (here / "start/best.pth").unlink()  # what is kept of it is in last.pth
    run("--output", "parts", "--resume")  # every other flag comes from the run itself
    whole, parts = (torch.load(here / name / "last.pth", weights_only=True) for name in ("whole", "parts"))
    assert same(whole["objective"], parts["objective"])
    assert same(whole["net_dict"], parts["net_dict"])
    assert whole["recipe"] == parts["recipe"]
    assert without_times(whole["history"]) == without_times(parts["history"])


def test_resume_says_what_is_wrong(data, here, capsys):
    with pytest.raises(InputError, match=r"--resume: checkpoint/last\.pth does not exist"):
        run("--resume", "--data-dir", data)
    run("--data-dir", data, "--epochs", 1, "--lr", 1e-3, *SMALL)
    run("--resume")
    assert "has finished its 1 epoch; train longer with --epochs" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"--output checkpoint: already has a run \(.*\); continue it with --resume"):
        run("--data-dir", data, "--epochs", 1, *SMALL)
    with pytest.raises(InputError, match=r"--lr 0\.5: the run in checkpoint/last\.pth has 0\.001"):
        run("--resume", "--epochs", 2, "--lr", 0.5)
    with pytest.raises(InputError, match=r"best\.pth: has weights only"):
        run("--resume", "checkpoint/best.pth", "--epochs", 2)
    other = sample.ensure(here / "other", identities=9, workers=1)
    with pytest.raises(InputError, match="other data"):
        run("--resume", "--epochs", 2, "--data-dir", other)
    capsys.readouterr()
    run("--resume", "--epochs", 2)
    assert "note: --epochs changed from 1 to 2" in capsys.readouterr().out
    assert torch.load("checkpoint/last.pth", weights_only=True)["epoch"] == 2


def test_ctrl_c_saves_and_says_how_to_go_on(data, here):
    flags = ["--data-dir", data, "--epochs", "200", "--batch_size", "16", "--eval-interval", "200", *SMALL]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *map(str, flags)],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (here / "checkpoint/last.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "--resume checkpoint/last.pth" in errors
    last = torch.load(here / "checkpoint/last.pth", weights_only=True)
    assert 1 <= last["epoch"] < 200
    run("--resume", "--epochs", last["epoch"] + 1)


# -- pretrained weights ------------------------------------------------------------------------------------------------


def test_weights_of_another_network_are_refused(data, here):
    torch.save(torch.nn.Linear(2, 2).state_dict(), "linear.pth")
    with pytest.raises(InputError, match=r"linear\.pth: not a supported network"):
        run("--data-dir", data, "--weights", "linear.pth", *TINY)
    checkpoints.save("net.pth", {"net_dict": Net(9).state_dict()})
    with pytest.raises(InputError, match=r"is net, but --model is resnet18; leave --model out"):
        run("--data-dir", data, "--weights", "net.pth", "--model", "resnet18", *TINY)


def test_imagenet_file_is_loaded_from_the_cache(data, here, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(here / "cache"))
    folder = here / "cache/hub/checkpoints"
    folder.mkdir(parents=True)
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    torch.save(torchvision.models.resnet18().state_dict(), folder / name)
    run("--data-dir", data, "--epochs", 1, "--weights", "imagenet", "--model", "resnet18", *TINY)
    assert "Loaded 120 of 122 tensors" in capsys.readouterr().out


# -- user errors -------------------------------------------------------------------------------------------------------


def class_folders(root: Path, data: Path, identities: int) -> Path:
    for path in sorted((data / "bounding_box_train").iterdir()):
        folder = root / path.name[:4]
        if folder.is_dir() or len(list(root.glob("*"))) < identities:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).symlink_to(path)
    return root


def test_wrong_folders_get_one_line(data, here):
    assert_one_line_error(call_script("train.py", "--data-dir", "nowhere", cwd=here), "nowhere: no such folder")
    with pytest.raises(InputError, match="its 14 images are not in identity folders"):
        run("--data-dir", data / "query", *SMALL)
    (here / "empty").mkdir()
    with pytest.raises(InputError, match="no images found"):
        run("--data-dir", "empty", *SMALL)
    with pytest.raises(InputError, match="only one identity"):
        run("--data-dir", class_folders(here / "one", data, 1), *SMALL)


def test_plain_class_folders_train_without_query_and_gallery(data, here, capsys):
    run("--data-dir", class_folders(here / "own", data, 3), "--epochs", 1, *SMALL)
    out = capsys.readouterr().out
    assert "datasets.py split" in out
    assert "mAP" not in out.split("epoch   1/1")[1]


def test_several_datasets_train_as_one(data, here, capsys):
    own = make_class_folders(here / "own", identities=3)
    run("--data-dir", own, data, "--epochs", 1, *SMALL)
    out = capsys.readouterr().out
    images = len(layouts.find(data).train) + len(layouts.find(own).train)
    assert f"All 2 datasets: 11 identities, {images} training images; rank-1 and mAP on {data}" in out
    assert f"/test.py --data-dir {data}" in out
    last = torch.load(here / "checkpoint/last.pth", weights_only=True)
    assert last["class_names"][:4] == ["own/person1", "own/person2", "own/person3", "sample/0001"]
    assert last["args"]["data_dir"] == [str(own), str(data)]
    assert "mAP" in last["history"][0]
    run("--resume", "--epochs", 2)
    assert torch.load(here / "checkpoint/last.pth", weights_only=True)["epoch"] == 2
    with pytest.raises(InputError, match="trained on other data"):
        run("--resume", "--epochs", 3, "--data-dir", data)
    with pytest.raises(InputError, match="same folder twice"):
        run("--data-dir", own, own / ".." / "own", "--output", "other")


def test_a_misspelt_name_of_weights_lists_what_there_is(data, here):
    with pytest.raises(InputError, match=r"--weights drwan: no such file; give .* `drawn` .* or `imagenet`"):
        run("--data-dir", data, "--weights", "drwan", *SMALL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "0"], "0 is not a whole number above 0"),
        (["--epoch", "3"], "unrecognized arguments: --epoch"),
        (["--lr", "nan"], "nan is not a number"),
        (["--model", "resnet19"], "invalid choice: 'resnet19'"),
    ],
)
def test_typos_get_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        train.get_args_parser().parse_args(flags)
    errors = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_batch_size_must_suit_the_processes(data, here):
    with pytest.raises(InputError, match="--batch_size 1"):
        run("--data-dir", data, "--batch_size", 1, *SMALL)


def test_a_network_that_died(data, here, monkeypatch):
    found = train.embed.test_features

    def dead(*args, **more) -> dict:
        features = found(*args, **more)
        features["qf"][3] = 0
        return features

    monkeypatch.setattr(train.embed, "test_features", dead)
    with pytest.raises(RunFailed, match=r"the training collapsed: .* start again with a lower --lr"):
        run("--data-dir", data, "--epochs", 1, *SMALL)


# -- flags and schedules -----------------------------------------------------------------------------------------------


def test_the_table_of_help_says_which_values_are_chosen_for_the_data(here):
    shown = call_script("train.py", "--help", cwd=here).stdout
    rows = (line.split() for line in shown.partition("recipes:")[2].splitlines() if line.startswith("  --"))
    table = {flag: default for flag, deepsort, default in rows}
    assert {flag for flag, value in table.items() if value == "auto"} == {
        *("--epochs", "--batch_size", "--lr", "--amp", "--height", "--width"),
        *("--progressive", "--precise-bn", "--keep-start"),
    }
    assert table["--weight-decay"] == "0.05"
    assert "auto: chosen for data, starting weights and machine" in shown


def test_old_flag_names_stand_and_dashes_work():
    flags = "--data-dir x --epochs 3 --batch-size 8 --lr 0.1 --lrf 0.2 --weights w --freeze-layers --gpu-id 1"
    args = train_multiGPU.get_args_parser().parse_args([*flags.split(), "--no-syncBN", "--world-size=2"])
    assert (args.batch_size, args.gpu_id, args.lrf, args.syncBN, args.world_size) == (8, 1, 0.2, False, 2)
    assert (args.lr, args.freeze_layers, args.epochs) == (0.1, True, 3)


def test_auto_can_be_typed_and_given_flags_win_over_the_recipe():
    assert recipe_of("--lr", 0.1, "--no-progressive").lr == 0.1
    plain = recipe_of("--recipe", "deepsort", images=60)
    assert (plain.epochs, plain.batch_size, plain.lr, plain.progressive) == (40, 32, 0.01, False)
    auto = recipe_of("--recipe", "deepsort", "--epochs", "auto", "--progressive", "auto", images=60)
    assert (auto.epochs, auto.lr) == (160, 0.01)
    assert recipe_of("--batch_size", "auto", images=60) == recipe_of(images=60)
    for wrong in (["--progressive", "yes"], ["--no-progressive", "auto"], ["--clip", "auto"]):
        with pytest.raises(SystemExit):
            recipe_of(*wrong)


@pytest.mark.parametrize(
    ("images", "flags", "batch_size", "epochs", "progressive"),
    [
        (12_936, "", 64, 40, True),  # Market-1501
        (12_936, "--batch_size 128", 128, 40, True),
        (12_936, "--epochs 3", 64, 3, True),
        (4_088, "--epochs 12", 64, 12, True),
        (4_088, "--epochs 6", 32, 6, True),
        (4_088, "--epochs 3", 32, 3, False),
        (252, "", 32, 40, False),
        (252, "--batch_size 128", 128, 40, False),
        (60, "", 32, 160, False),
        (60, "--model osnet_x0_25", 16, 160, True),
        (60, "--epochs 40", 32, 40, False),
        (760, "--epochs 6", 32, 6, False),
        (760, "--epochs 6 --progressive", 32, 6, True),
        (252, "--recipe deepsort", 32, 40, False),
        (646, "", 32, 40, True),
        (646, "--model osnet_x0_25", 16, 40, True),
        (4_088, "--epochs 12 --model mobilenet_v2", 32, 12, True),
    ],
)
def test_the_recipe_suits_the_number_of_images(images, flags, batch_size, epochs, progressive):
    recipe = recipe_of(*flags.split(), images=images)
    assert (recipe.batch_size, recipe.epochs, recipe.progressive) == (batch_size, epochs, progressive)


def test_each_process_keeps_eight_images():
    few = ((1, 32), (2, 32), (4, 32), (8, 64), (16, 128), (32, 128))
    many = ((1, 64), (2, 128), (4, 128), (16, 128))  # and no more than 64
    for images, epochs, choices in ((252, 1, few), (12_936, 40, many)):
        for processes, batch_size in choices:
            assert recipe_of("--epochs", epochs, images=images, processes=processes).batch_size == batch_size
    with pytest.raises(InputError, match="multiple of the number of processes, 3"):
        recipe_of(processes=3)


@pytest.mark.parametrize(
    ("flags", "lr", "progressive", "why"),
    [
        ([], 5e-4, False, "a quarter of the usual: fine-tuning a re-ID network"),
        (["--lr", "0.001", "--progressive"], 1e-3, True, None),
        (["--teacher", "large.pth"], 2e-3, False, None),
        (["--teacher", "large.pth", "--model", "osnet_x0_25"], 8e-3, False, "4 times the usual: narrow network"),
        (["--recipe", "deepsort"], 0.01, False, None),
    ],
)
def test_weights_that_know_people_are_fine_tuned(flags, lr, progressive, why):
    recipe, reasons = chosen(*flags, images=13_000, identities=751, fine_tuning=True)
    assert (recipe.lr, recipe.progressive) == (lr, progressive)
    assert reasons.get("lr", "").startswith(why) if why else "lr" not in reasons
    told = plan(recipe, reasons, Facts("net", 13_000, 751, fine_tuning=True))
    assert f"learning rate {lr:g}" + (f" ({why}" if why else "") in told


def plan(recipe, reasons, facts, steps_per_epoch=8) -> str:
    return messages.plan(recipe, reasons, steps_per_epoch, facts, torch.device("cpu"))


def test_fine_tuning_on_few_people_is_warned_of_unless_much_is_kept():
    for people, fine_tuning, kept in ((10, True, 0), (FEW_PEOPLE, True, 0), (10, False, 0), (10, True, 0.5)):
        facts = Facts("net", 600, people, fine_tuning=fine_tuning)
        noted = "can make the network worse on everyone else" in plan(*chosen("--keep-start", kept), facts)
        assert noted == (people == 10 and fine_tuning and not kept)


def test_fine_tuning_takes_smaller_batches():
    """12 epochs of Market-1501's identities 0:250: batches of 64 from scratch, of 32 from weights that know people."""
    for fine_tuning, batch_size in ((False, 64), (True, 32)):
        recipe = recipe_of("--epochs", 12, images=4_199, identities=250, fine_tuning=fine_tuning)
        assert recipe.batch_size == batch_size


def test_one_side_of_the_input_alone_keeps_the_shape_of_the_starting_weights():
    for flags, own, size in (
        ((), (128, 64), (128, 64)),
        (("--height", 64), (128, 64), (64, 32)),
        (("--width", 96), (128, 64), (192, 96)),
        (("--height", 48), (96, 32), (48, 16)),
        (("--height", 48, "--width", 40), (96, 32), (48, 40)),
    ):
        recipe = recipe_of(*flags, size=own)
        assert (recipe.height, recipe.width) == size


def test_what_was_chosen_is_said_and_too_few_steps_warned_of():
    recipe, reasons = chosen(images=252, identities=28)
    facts = Facts("net", 252, 28)
    first, *rest = plan(recipe, reasons, facts).splitlines()
    assert first == (
        "40 epochs; batch 32, 320 steps (short runs learn more from many small steps); full size 128x64 in all epochs; "
        "learning rate 0.002; fp32 (bf16 is no faster here)"
    )
    assert " ".join(" ".join(rest).split()).startswith("recipe: epochs 40, batch_size 32, accumulate 1, height 128, ")
    assert "warning: 80 steps are too few" in plan(recipe, reasons, facts, steps_per_epoch=2)
    recipe, reasons = chosen("--epochs", 4, "--batch_size", 16, images=4_000, identities=200)
    assert plan(recipe, reasons, facts, 250).startswith(
        "4 epochs; batch 16, 1,000 steps; full size 128x64 from epoch 4 (the first epochs learn as much from small "
        "images); learning rate 0.002; fp32 (bf16 is no faster here); precise batch norm statistics (running"
    )
    assert "full size 128x64 from epoch 11" in plan(*chosen(images=4_199, identities=250), facts, 66)
    assert "160 epochs (very small dataset: at least 300 steps)" in plan(*chosen(images=60), facts)
    assert "batch 64, 2,640 steps (larger batches gave no gain)" in plan(*chosen(images=4_199), facts, 66)
    resumed = plan(recipe, {}, facts, 250)  # nothing is chosen then
    assert "(" not in resumed.splitlines()[0]


def schedule_of(*flags, **values):
    """A recipe of the given flags, at 128x64 and of 40 epochs where they say nothing else."""
    return recipe_of("--epochs", 40, "--progressive", *flags, images=100_000, **values)


def test_learning_rate_by_hand():
    recipe = schedule_of("--epochs", "10", "--warmup", "0.2", "--lrf", "0.1", "--no-progressive")
    factors = schedule.lr_factors(recipe, steps_per_epoch=1)
    assert factors[:2] == pytest.approx([0.5, 1.0])
    assert factors[5] == pytest.approx(0.55)  # half way down the cosine from 1 to 0.1
    assert factors[9] == pytest.approx(0.1)


def test_learning_rate_falls_slower_over_small_images():
    """5 epochs at 1/16, 1/4, 1/4, 9/16 and all of the pixels are 2.125 whole ones."""
    factors = schedule.lr_factors(schedule_of("--epochs", "5", "--warmup", "0", "--lrf", "0"), steps_per_epoch=2)
    assert len(factors) == 10
    for step, done in ((1, 0.0625), (5, 0.5625), (7, 1.125)):
        assert factors[step] == pytest.approx((1 + math.cos(math.pi * done / 2.125)) / 2)
    assert factors[9] == pytest.approx(0.0, abs=1e-12)


def test_resolutions_by_hand():
    def sizes(*flags):
        recipe = schedule_of(*flags)
        return [schedule.image_size(recipe, epoch) for epoch in range(recipe.epochs)]

    assert sizes("--epochs", 12) == [(32, 16)] * 2 + [(64, 32)] * 5 + [(96, 48)] * 3 + [(128, 64)] * 2
    assert sizes() == sizes("--epochs", 12) + [(128, 64)] * 28
    assert sizes("--epochs", 5) == [(32, 16), (64, 32), (64, 32), (96, 48), (128, 64)]
    assert sizes("--epochs", 1) == [(128, 64)]
    assert sizes("--epochs", 3, "--height", 256, "--width", 128) == [(128, 64)] * 2 + [(256, 128)]
    assert sizes("--epochs", 3, "--height", 64, "--width", 32) == [(32, 16)] * 2 + [(64, 32)]  # 16x8
    assert sizes("--epochs", 2, "--height", 32, "--width", 16) == [(24, 16), (32, 16)]  # half: 16x8
    assert sizes("--no-progressive") == [(128, 64)] * 40


# -- a limit in minutes ------------------------------------------------------------------------------------------------


def test_the_most_epochs_that_fit_are_trained():
    def seconds(recipe) -> float:  # 10 a full epoch, 5 a small one, and 30 of tests
        sizes = [schedule.image_size(recipe, epoch) for epoch in range(recipe.epochs)]
        return 30 + sum(10 if size == (128, 64) else 5 for size in sizes)

    for minutes, epochs in ((0.1, 1), (2.5, 17), (20, 122)):  # of 12 epochs 2 are at full size, then all
        recipe, reasons = chosen("--minutes", minutes, images=50_000, seconds=seconds)
        assert recipe.epochs == epochs
        assert f"of {minutes:g} minutes on this machine" in reasons["epochs"]
        assert recipe == recipe_of("--epochs", epochs, images=50_000)
    assert seconds(recipe) <= 1200 < seconds(recipe_of("--epochs", 123, images=50_000))
    short = recipe_of("--minutes", 0.1, images=500, seconds=seconds)  # the batch follows from the length
    assert (short.epochs, short.batch_size) == (1, 32)


def test_a_run_with_a_time_limit_is_the_run_of_its_epochs(data, here, capsys):
    """Timing leaves no trace, in random numbers or weights."""
    flags = ["--data-dir", data, "--eval-interval", 9, "--batch_size", 16, "--amp", "fp32", *SMALL]
    run(*flags, "--minutes", 0.001, "--output", "timed")
    assert re.search(r"1 epoch \(about \d\.\d of 0\.001 minutes on this machine\)", capsys.readouterr().out)
    run(*flags, "--epochs", 1, "--output", "given")
    timed, given = (torch.load(here / name / "last.pth", weights_only=True) for name in ("timed", "given"))
    assert same(timed["objective"], given["objective"])
    assert timed["recipe"] == given["recipe"]
    with pytest.raises(InputError, match="--minutes 3 --epochs 2: both set the training time"):
        run(*flags, "--minutes", 3, "--epochs", 2, "--output", "other")
    with pytest.raises(InputError, match=r"--minutes 3\.0: the run in given/last\.pth has None"):
        run("--resume", "--output", "given", "--minutes", 3)


def test_the_time_left_by_hand():
    def left(*flags, rows):  # (seconds, size, whether it had a test) of each epoch done
        recipe = schedule_of("--amp", "bf16", *flags, "--epochs", "5", "--batch_size", "64")
        figures = {"train_loss": 1.0, "train_acc": 0.5, "images_per_second": 100.0}
        history = [
            {"epoch": epoch, "height": size, "width": size // 2, "seconds": seconds} | figures | tested
            for epoch, (seconds, size, tested) in enumerate(rows, start=1)
        ]
        return messages.epoch_line(recipe, history).partition("img/s")[2].strip()

    test = {"rank1": 0.5, "mAP": 0.4}
    assert left("--no-progressive", rows=[(10, 128, {})]) == "40 s left"
    assert left("--no-progressive", rows=[(10, 128, {}), (14, 128, test)]) == "30 s left"  # the test is no epoch
    assert left("--no-progressive", rows=[(14, 128, test)]) == "56 s left"  # all that is known
    growing = [(20, 32, {}), (30, 64, {}), (30, 64, {}), (50, 96, {})]
    # one size alone: 60,000 / 64 pixels are guessed for the step, and a third of it beside float32's slower images
    sizes = 2 * 2048 + 4608 + 8192
    assert left(rows=growing[:1]) == f"{20 * (sizes + 4 * 937.5) / (512 + 937.5) / 60:.0f} min left" == "5 min left"
    assert left("--amp", "fp32", rows=growing[:1]) == f"{20 * (sizes + 4 * 312.5) / (512 + 312.5) / 60:.0f} min left"
    # 128x64 after 96x48 and 64x32, on a line
    assert left(rows=growing) == f"{50 + (50 - 30) * (8192 - 4608) / (4608 - 2048):.0f} s left" == "78 s left"
    # on a noisy machine an epoch takes no less time for more pixels, and no more than in proportion to them
    assert left(rows=[*growing[:3], (20, 96, {})]) == "20 s left"
    assert left(rows=[*growing[:3], (80, 96, {})]) == f"{80 * 8192 / 4608 / 60:.0f} min left" == "2 min left"
    assert left(rows=[*growing, (80, 128, test)]) == ""
