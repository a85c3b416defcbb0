"""The benchmarks run, on little work: their figures are for people, but a broken one is noticed here."""

import json
import shlex
import time

import pytest
import torch
from conftest import benchmark, load_script, make_market

import train
from appearance.cli import InputError
from appearance.data import layouts

drawings, extract_speed, gpu = map(benchmark, ("drawings", "extract_speed", "gpu"))
recipe_benchmark, train_speed = map(benchmark, ("recipe", "train_speed"))

TINY = ["--model", "osnet_x0_25", "--height", "32", "--width", "16", "--device", "cpu"]


def result(module, capsys, *flags) -> dict:
    module.main(module.get_args_parser().parse_args([*TINY, *map(str, flags)]))
    text = capsys.readouterr().out
    return json.loads(text[text.rindex("\n{\n" if "\n{\n" in text else "{\n") :])  # the last


def test_training_speed_and_where_it_goes(capsys, tmp_path):
    flags = ["--images", 48, "--rounds", 1, "--batch_size", 16, "--profile", "--json", tmp_path / "a.json"]
    found = result(train_speed, capsys, *flags)
    assert found == json.loads((tmp_path / "a.json").read_text())
    assert found["ratio"] == pytest.approx(found["images_per_second"] / found["reference_images_per_second"], rel=0.05)
    shares = list(found["where_time_goes"].values())
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) <= 1.001
    assert 0 < found["share_of_matmul_peak"] < 1


def test_extraction_speed_gives_the_references_vectors(capsys):
    found = result(extract_speed, capsys, "--images", 40, "--rounds", 1, "--batch_size", 16)
    assert found["images"] == 40
    assert found["largest_difference"] < 1e-4
    assert found["ratio"] > 0


def test_recipes_with_epochs_of_their_own(capsys, tmp_path):
    data = make_market(tmp_path / "market")
    flags = ["--data-dir", data, "--output", tmp_path / "runs", "--variants", "deepsort:1", "default", "--epochs", 2]
    flags += ["--json", tmp_path / "results.json"]

    def results(*more) -> list[dict]:
        recipe_benchmark.main(recipe_benchmark.get_args_parser().parse_args([*TINY, *map(str, [*flags, *more])]))
        return json.loads((tmp_path / "results.json").read_text())["results"]

    found = results()
    assert [(row["variant"], row["epochs"]) for row in found] == [("deepsort", 1), ("default", 2)]
    for row in found:
        assert -1 <= row["strangers_p1"] <= row["strangers_mean"] <= row["strangers_p99"] <= 1
        assert 0 <= row["mAP"] <= 1
    assert results() == found  # kept, not run again
    assert capsys.readouterr().out.splitlines()[-1] == recipe_benchmark.table(found).splitlines()[-1]
    with pytest.raises(InputError, match="is of other flags"):
        results("--height", 48)
    start = tmp_path / "runs" / "default_2" / "seed0" / "best.pth"
    (refined,) = results("--weights", start, "--output", tmp_path / "refined", "--variants", "default:1")
    assert refined["command"][refined["command"].index("--weights") + 1] == str(start)
    assert f"from {start}" in capsys.readouterr().out
    again = [found[0] | {"seed": 1, "rank1": found[0]["rank1"] + 0.1}]
    row = recipe_benchmark.table(found + again).splitlines()[2].split(" | ")
    assert row[2] == f"{100 * found[0]['rank1'] + 5:.1f} ± 7.1"  # mean and deviation of two seeds
    assert row[3] == f"{100 * found[0]['mAP']:.1f} ± 0.0"
    for wrong in ("nothing", "default:0", "default:x"):
        with pytest.raises(InputError, match="--variants"):
            recipe_benchmark.variant(wrong, 2)


def test_a_stopped_recipe_benchmark_resumes_the_run_it_was_in(capsys, tmp_path, monkeypatch):
    flags = [*TINY, "--data-dir", str(make_market(tmp_path / "market")), "--variants", "default", "--epochs", "2"]

    def row(folder: str) -> dict:
        more = ["--output", str(tmp_path / folder), "--json", str(tmp_path / "results.json")]
        recipe_benchmark.main(recipe_benchmark.get_args_parser().parse_args([*flags, *more]))
        (found,) = json.loads((tmp_path / "results.json").read_text())["results"]
        return {key: found[key] for key in found.keys() - {"command", "load_average_before"}}  # the folder, the machine

    whole, begin_epoch = row("whole"), train.Run.begin_epoch

    def killed_in_the_second(run, *epoch):
        if run.epoch == 1:
            raise KeyboardInterrupt
        begin_epoch(run, *epoch)

    monkeypatch.setattr(train.Run, "begin_epoch", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        row("stopped")
    monkeypatch.setattr(train.Run, "begin_epoch", begin_epoch)
    capsys.readouterr()
    resumed = row("stopped")
    text = capsys.readouterr().out
    assert "last.pth after 1 epoch" in text
    assert text.endswith(" | - |\n")  # its cost
    assert resumed == whole | {"seconds": None, "processor_seconds": None}


def gpu_arguments(*flags):
    return gpu.get_args_parser().parse_args([str(flag) for flag in flags])


def test_every_part_of_the_gpu_run_is_a_command_that_is_understood():
    for command in [part.command for part in gpu.parts(gpu_arguments()).values()]:
        file, *words = shlex.split(command)
        if file.startswith(".."):
            assert load_script(file.removeprefix("../")).get_args_parser().parse_args(words)
            continue
        parsed = benchmark(file.removesuffix(".py")).get_args_parser().parse_args([*words, "--json", "x.json"])
        for text in parsed.variants if file == "recipe.py" else ():
            recipe_benchmark.variant(text, 1)
    with pytest.raises(InputError, match="--parts nothing"):
        gpu.parts(gpu_arguments("--parts", "nothing"))


def test_the_gpu_run_in_miniature(tmp_path, monkeypatch):
    """All parts, tiny and on the CPU, in this process."""

    def launch(command, log, seconds):
        file, *words = command
        outside = file.startswith("..")
        module = load_script(file.removeprefix("../")) if outside else benchmark(file.removesuffix(".py"))
        if file == "evaluate_speed.py":
            module.QUERIES, module.IMAGES = 40, 300
        if file == "latency.py":
            module.PAUSE = 0
        if file == "gpu_checks.py":  # one of each kind: others are tested elsewhere
            module.SECONDS = 300  # a CPU that is busy
            some = {"training": ["fp16 with SGD", "resumed"], "torchrun": ["one process"]}
            checks = module.CHECKS[words[0]]
            module.CHECKS[words[0]] = {name: checks[name] for name in some.get(words[0], checks)}
        module.main(module.get_args_parser().parse_args(words))

    threads = torch.get_num_threads()
    gpu.main(gpu_arguments("--device", "cpu", "--small", "--output", tmp_path), launch)
    torch.set_num_threads(threads)
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["left_out"] == []
    for name, part in report["parts"].items():
        assert "failed" not in part, part
        if name.startswith("check_"):
            assert part["result"]["failed"] == [], part
            assert part["result"]["checks"]
    assert report["parts"]["train"]["result"]["images_per_second"] > 0
    assert report["parts"]["evaluate"]["result"]["rerank"]["vectors"] == 340
    assert report["parts"]["extract"]["result"]["largest_difference"] < 1e-4
    assert list(report["parts"]["latency"]["result"]) == ["osnet_x0_25 eager", "osnet_x0_25 fused"]


def test_a_part_that_crashes_hangs_or_is_killed_loses_none_of_the_others(tmp_path, monkeypatch):
    scripts = {
        "crashes": "answer({'half': 1}); raise SystemExit('the driver is gone')",
        "hangs": "answer({'half': 2}); subprocess.Popen([sys.executable, '-c', CHILD]); time.sleep(60)",
        "killed": "os.kill(os.getpid(), signal.SIGKILL)",
        "broken": "open(sys.argv[-1], 'w').write('{')",
        "whole": "answer({'all': 3})",
    }
    child = tmp_path / "child"
    late = f"import time; time.sleep(3); open({str(child)!r}, 'w')"
    begin = "import json, os, signal, subprocess, sys, time\n"
    begin += f"CHILD = {late!r}\n"
    begin += "def answer(found): open(sys.argv[-1], 'w').write(json.dumps(found))\n"
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(begin + text)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "parts", lambda args: {name: gpu.Part(f"{name}.py", 2) for name in scripts})
    gpu.main(gpu_arguments("--device", "cpu", "--output", tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "results.json").read_text())["parts"]
    assert found["crashes"]["failed"] == "exit code 1: the driver is gone"
    assert found["hangs"]["failed"] == "stopped after 2 s"
    assert found["killed"]["failed"] == "ended by SIGKILL"
    assert found["broken"]["failed"] == "its answer is no JSON"
    assert [found[name].get("result") for name in scripts] == [{"half": 1}, {"half": 2}, None, None, {"all": 3}]
    time.sleep(max(0, 3.5 - found["killed"]["seconds"] - found["broken"]["seconds"]))
    assert not child.exists()  # what a part has started ends with it


def test_what_no_longer_fits_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "parts", lambda args: {"first": gpu.Part("x.py", 2)})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device"):
        gpu.main(gpu_arguments("--output", tmp_path))
    gpu.main(gpu_arguments("--device", "cpu", "--output", tmp_path, "--minutes", "0.01"))
    assert "no time is left for first" in capsys.readouterr().err


def test_what_drawings_are_worth(capsys, tmp_path):
    data, output = make_market(tmp_path / "market"), tmp_path / "runs"
    flags = [*TINY, "--amp", "fp32", "--data-dir", data, "--output", output, "--json", tmp_path / "all.json"]
    flags += ["--people", 3, 5, "--many-cameras", 3, "--cameras", 2, 4, "--many-people", 4, "--images", 60]
    flags += ["--without", "night+noise", "--few-people", 4, "--few-cameras", 3, "--device", "auto"]

    def run(*more) -> list[dict]:
        drawings.main(drawings.get_args_parser().parse_args([str(flag) for flag in [*flags, *more]]))
        return json.loads((tmp_path / "all.json").read_text())["results"]

    found = run()
    crowds = [(row["part"], row["people"], row["cameras"], row.get("without", "")) for row in found]
    assert crowds == [
        *(("people", 3, 3, ""), ("people", 5, 3, ""), ("cameras", 4, 2, ""), ("cameras", 4, 4, "")),
        *(("without", 4, 3, ""), ("without", 4, 3, "night+noise")),
    ]
    assert all(0 <= row["mAP"] <= 1 and row["epochs"] >= 1 for row in found)
    assert (output / "drawings.png").stat().st_size > 5000
    assert not list(output.glob("*_drawn"))  # the crowds are gone
    assert "| 4 | 3 | night, noise |" in capsys.readouterr().out
    assert run() == found  # kept, not run again
    with pytest.raises(InputError, match="is of other flags"):
        run("--images", 90)
    with pytest.raises(InputError, match="--without fog: no such setting"):
        run("--parts", "without", "--without", "night", "fog")
    assert not list(output.glob("*night_0*"))  # told before anything is drawn


def test_a_large_crowd_is_thinned_out(tmp_path):
    crowd = make_market(tmp_path / "market")
    before = layouts.find(crowd).train
    drawings.thin_out(before, 5, 0)
    left = layouts.find(crowd).train
    assert len(left) == 5 < len(before)
    assert set(left) < set(before)
    drawings.thin_out(left, 50, 0)
    assert layouts.find(crowd).train == left


def test_both_curves_of_drawings_have_the_crowd_where_they_meet():
    rows = [{"part": "people", "people": people, "cameras": 200} for people in (100, 1000, 3000)]
    rows += [{"part": "cameras", "people": 1000, "cameras": cameras} for cameras in (6, 400)]
    rows.append({"part": "without", "people": 1000, "cameras": 60, "without": "night"})
    assert drawings.curve(rows, "people") == {100: [rows[0]], 1000: [rows[1]], 3000: [rows[2]]}
    assert drawings.curve(rows, "cameras") == {6: [rows[3]], 200: [rows[1]], 400: [rows[4]]}
    apart = [*rows[:1], rows[4]]  # curves that do not meet
    assert [drawings.curve(apart, part) for part in ("people", "cameras")] == [{100: [apart[0]]}, {400: [apart[1]]}]


def test_drawn_people_to_learn_from():
    assert [drawings.learners(n) for n in (3, 4, 750, 751, 10_250)] == [2, 3, 500, 501, 10_000]
