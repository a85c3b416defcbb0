"""Small things that people meet: lines to paste, closed pipes, Ctrl-C, where the sample lies, names of pictures."""

import ast
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    ROOT,
    assert_one_line_error,
    call_script,
    make_class_folders,
    make_market,
    script_environment,
)
from test_intervals import clouds

from appearance import cli, machine
from appearance.cli import InputError
from appearance.data import layouts
from appearance.measure import features_file
from appearance.networks import checkpoints
from appearance.pictures import plots, report
from appearance.training import messages
from model import build_model
from utils import choose_device

sys.path.append(str(ROOT / "examples"))

TINY = ["--model", "osnet_x0_25", "--height", 32, "--width", 16, "--workers", 1, "--batch_size", 8, "--device", "cpu"]


def checkpoint(path: Path, **extra) -> Path:
    torch.manual_seed(0)
    net = build_model("osnet_x0_25", 4)
    content = {"net_dict": net.state_dict(), "arch": "osnet_x0_25", "height": 32, "width": 16}
    checkpoints.save(path, content | extra)
    return path


# ----------------------------------------------------------------------------------------------------- lines to paste


def test_lines_to_paste_have_the_scripts_path_as_typed_and_quoted_words(monkeypatch, tmp_path):
    (tmp_path / "my scripts").mkdir()
    for name in ("train.py", "test.py"):
        (tmp_path / "my scripts" / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["my scripts/train.py"])
    line = cli.command("test.py", "--data-dir", Path("a b/$c"))
    assert shlex.split(line) == ["python", "my scripts/test.py", "--data-dir", "a b/$c"]
    monkeypatch.setattr(sys, "argv", ["elsewhere.py"])  # a program of the user's own
    assert shlex.split(cli.command("test.py"))[1] == str(ROOT / "test.py")


def test_the_next_step_after_training_has_all_flags_that_matter(tmp_path):
    args = SimpleNamespace(data_dir=[tmp_path / "my data"], output=Path("out/sp ace"), skip_bad_images=True)
    data = SimpleNamespace(can_evaluate=True, root=tmp_path / "my data")
    words = shlex.split(messages.next_step(args, data).removeprefix("Next: "))
    assert words[2:] == [
        *("--data-dir", f"{tmp_path}/my data", "--weights", "out/sp ace/best.pth"),
        *("--output", "out/sp ace/features.pth", "--skip-bad-images"),
    ]
    assert "test.py" not in messages.next_step(args, SimpleNamespace(can_evaluate=False))


def test_a_stopped_run_says_how_to_go_on(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", ["/elsewhere/program.py"])

    def told() -> str:
        return messages.stopped("SIGINT", 1, 1, Path("out/sp ace"))

    assert "saved after 1 epoch and 1 step" in told()
    assert shlex.split(told().strip().split("Go on with: ")[1])[2:] == ["--resume", "out/sp ace/last.pth"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    line = told().strip().split("Go on with: ")[1]
    assert line.startswith(f"torchrun --nproc_per_node=2 {ROOT / 'train_multiGPU.py'} --resume ")


# --------------------------------------------------------------------------------------------- pipes, Ctrl-C, logs


def test_training_goes_on_when_its_output_is_cut_off(tmp_path):
    make_class_folders(tmp_path / "people")
    flags = ["--data-dir", "people", "--epochs", "2", "--eval-interval", "9", *TINY]
    line = shlex.join([sys.executable, str(ROOT / "train.py"), *map(str, flags)])
    command = f"{line} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=script_environment(), capture_output=True, text=True, timeout=200
    )
    assert done.stdout.splitlines() == ["people: class folders", "0"]
    assert done.stderr == ""
    assert checkpoints.load(tmp_path / "checkpoint" / "best.pth").extra["epoch"] >= 1
    assert checkpoints.read(tmp_path / "checkpoint" / "last.pth")["epoch"] == 2


def test_what_is_printed_after_the_reader_left_is_lost_and_no_error():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        stream = cli.Lasting(file)
        os.close(reader)
        for _ in range(3):
            print("lost", file=stream, flush=True)


def heeding_interrupts() -> None:
    """In a new process: a shell has those that it starts in the background, and these tests then, ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_imported_script_leaves_the_programs_signals_alone():
    code = "import signal, evaluate; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    how = {"cwd": "/", "env": script_environment(PYTHONPATH=str(ROOT)), "preexec_fn": heeding_interrupts}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100, **how)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------------------- flags


def test_help_is_short_on_top_and_shows_defaults_that_are_zero(tmp_path):
    shown = call_script("train.py", "--help", cwd=tmp_path).stdout
    assert shown.splitlines()[0] == "usage: train.py [flags]"
    assert "about five tests in a run (default: 0)" in " ".join(shown.split())
    assert call_script("evaluate.py", "--help", cwd=tmp_path).stdout.startswith(
        "usage: evaluate.py [flags] [features ...]\n"
    )


def test_few_flags_keep_argparses_usage():
    parser = cli.ArgumentParser(prog="tool")
    parser.add_argument("--one", help="flag")
    assert parser.format_help().startswith("usage: tool [-h] [--one ONE]")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_gpu_that_is_not_there_is_named_by_the_flag_that_asked_for_it():
    with pytest.raises(
        InputError, match="--gpu_id 3: not available; this machine has no CUDA device, use --device cpu"
    ):
        choose_device("auto", 3)
    assert choose_device("cpu", 3).type == choose_device("auto", 0).type == "cpu"


def test_counted():
    assert [cli.counted(n, "epoch") for n in (0, 1, 2000)] == ["0 epochs", "1 epoch", "2,000 epochs"]
    assert [cli.counted(n, "identity") for n in (1, 2)] == ["1 identity", "2 identities"]
    assert [cli.counted(n, "person", "people") for n in (1, 2)] == ["1 person", "2 people"]


def test_fewer_epochs_than_are_done_is_an_error(tmp_path):
    make_class_folders(tmp_path / "people")
    flags = ["--epochs", 2, "--eval-interval", 9, *TINY]
    done = call_script("train.py", "--data-dir", "people", *flags, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "-> best.pth" in done.stdout
    assert "test.py" not in done.stdout  # there is nothing to test on
    less = call_script("train.py", "--resume", "--epochs", 1, cwd=tmp_path)
    assert_one_line_error(less, "--epochs 1: the run in checkpoint/last.pth has already done 2")
    same = call_script("train.py", "--resume", cwd=tmp_path)
    assert (same.code, same.stdout.strip()) == (
        *(0, "checkpoint/last.pth has finished its 2 epochs; train longer with --epochs"),
    )


def test_test_leaves_bad_images_out_where_asked(tmp_path):
    data = make_market(tmp_path / "market")
    checkpoint(tmp_path / "w.pth")
    (data / "query" / "0005_c1s1_000000_00.jpg").write_bytes(b"no image")
    flags = ["--data-dir", "market", "--weights", "w.pth", "--device", "cpu", "--workers", 1]
    assert_one_line_error(call_script("test.py", *flags, cwd=tmp_path), "0005_c1s1_000000_00.jpg")
    done = call_script("test.py", *flags, "--skip-bad-images", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "Left out 1 of 14 images" in done.stdout
    assert "does not record its training data" in done.stdout
    found = features_file.load(tmp_path / "features.pth")
    assert len(found["ql"]) == len(layouts.find(data).query) - 1
    for path in (data / "query").iterdir():
        path.write_bytes(b"no image")
    assert_one_line_error(
        call_script("test.py", *flags, "--skip-bad-images", cwd=tmp_path),
        "all query images or all gallery images are unreadable",
    )


def test_refused_formats_do_not_keep_the_others_from_being_written(tmp_path):
    checkpoint(tmp_path / "w.pth")
    flags = ["--weights", "w.pth", "--data-dir", make_class_folders(tmp_path / "people")]
    done = call_script("export.py", *flags, "--format", "ckpt", "boxmot", cwd=tmp_path)
    assert_one_line_error(done, "--format ckpt: deep_sort_pytorch supports only Net")
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["osnet_x0_25_reid.pt"]
    assert "boxmot" in done.stdout


# ------------------------------------------------------------------------------------------------------- the sample


def test_the_sample_lies_where_the_scripts_or_the_user_keep_things(tmp_path, monkeypatch):
    monkeypatch.setenv("APPEARANCE_DATA", str(tmp_path / "named"))
    assert machine.data_folder() == tmp_path / "named"
    monkeypatch.delenv("APPEARANCE_DATA")
    monkeypatch.setattr(machine, "SCRIPTS", tmp_path)
    assert machine.data_folder() == tmp_path / "data"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert machine.data_folder() == tmp_path / "cache" / "appearance"
    (tmp_path / "data" / "sample").mkdir(parents=True)  # put there by somebody who could
    assert machine.data_folder() == tmp_path / "data"


# ------------------------------------------------------------------------------------------------------- evaluate.py


def test_one_identity_cannot_be_calibrated_and_all_else_is_written(tmp_path):
    features_file.save(tmp_path / "features.pth", clouds(1, 0.6, torch.Generator().manual_seed(1)))
    done = call_script("evaluate.py", "--calibrate", "--report", "report", "--json", "m.json", cwd=tmp_path)
    assert_one_line_error(done, "--calibrate: needs two images of one person", "everything else was written")
    assert json.loads((tmp_path / "m.json").read_text())["rank1"] == 1
    assert (tmp_path / "report" / "report.html").is_file()
    assert (tmp_path / "cmc.png").is_file()


def test_best_and_worst_lists_share_no_query():
    data = clouds(2, 0.6, torch.Generator().manual_seed(1), images=4)
    results = {"correct": torch.ones(2), "ap": torch.tensor([0.9, 0.4]), "first": torch.ones(2)}
    found, _ = report._lists(data, results)
    assert {kind: [row["title"] for row in rows] for kind, rows in found.items()} == {
        "best": ["best · identity 1 · AP 90 %"],
        "worst": ["worst · identity 2 · AP 40 %"],
    }


# ----------------------------------------------------------------------------------------------------------- pictures


def test_equal_curves_are_both_seen_and_end_with_the_gallery():
    metrics = {"cmc": [0.5] * 50, "rank1": 0.5, "mAP": 0.25, "gallery": 6}
    axes = plots.cmc({"one": metrics, "two": metrics}).axes[0]
    below, above = axes.lines
    assert below.get_linewidth() > above.get_linewidth() + 1
    assert [len(line.get_xdata()) for line in axes.lines] == [6, 6]
    assert axes.get_xlim() == (0.5, 6.5)


def test_the_two_losses_say_that_they_are_different_sums(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    plots.training_curves([{"epoch": 1, "train_loss": 3.0, "val_loss": 1.0}], tmp_path / "c.png")
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert labels == ["training, all losses 3", "validation, classification only 1"]


def test_all_bars_are_of_one_kind():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("appearance/**/*.py"), *ROOT.glob("examples/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and "tqdm" in [getattr(one, "id", "") for one in (node.func, *node.args)]:
                assert path == ROOT / "appearance/progress.py", f"{path}:{node.lineno}"
