"""The benchmarks run, on little work: their figures are for people, but a broken one is noticed here."""

import json

import pytest
from conftest import benchmark, make_market

from appearance.cli import InputError

extract_speed, gpu, recipe_benchmark, train_speed = map(benchmark, ("extract_speed", "gpu", "recipe", "train_speed"))

TINY = ["--model", "osnet_x0_25", "--height", "32", "--width", "16", "--device", "cpu"]


def result(module, capsys, *flags) -> dict:
    module.main(module.get_args_parser().parse_args([*TINY, *map(str, flags)]))
    text = capsys.readouterr().out
    return json.loads(text[text.index("{\n") :])


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
    found = result(recipe_benchmark, capsys, *flags)["results"]
    assert [(row["variant"], row["epochs"]) for row in found] == [("deepsort", 1), ("default", 2)]
    for row in found:
        assert -1 <= row["strangers_p1"] <= row["strangers_mean"] <= row["strangers_p99"] <= 1
        assert 0 <= row["mAP"] <= 1
    assert result(recipe_benchmark, capsys, *flags)["results"] == found  # kept, not run again
    with pytest.raises(InputError, match="is of other flags"):
        result(recipe_benchmark, capsys, *flags, "--height", 48)
    again = [found[0] | {"seed": 1, "rank1": found[0]["rank1"] + 0.1}]
    row = recipe_benchmark.table(found + again).splitlines()[2].split(" | ")
    assert row[2] == f"{100 * found[0]['rank1'] + 5:.1f} ± 7.1"  # mean and deviation of two seeds
    assert row[3] == f"{100 * found[0]['mAP']:.1f} ± 0.0"
    for wrong in ("nothing", "default:0", "default:x"):
        with pytest.raises(InputError, match="--variants"):
            recipe_benchmark.variant(wrong, 2)


@pytest.mark.parametrize("full", [False, True])
def test_every_part_of_the_gpu_run_is_a_command_that_is_understood(full):
    flags = ["--full-data-dir", "x"] if full else []
    parts = gpu.parts(gpu.get_args_parser().parse_args(flags))
    assert ("full_resnet50" in parts) == full
    for command in parts.values():
        file, *words = command.split()
        parser = benchmark(file.removesuffix(".py")).get_args_parser()
        parser.parse_args([*words, "--json", "x.json"])
        if file == "recipe.py":
            for text in parser.parse_args(words).variants:
                recipe_benchmark.variant(text, 1)


def test_a_part_that_fails_is_named_and_the_others_are_kept(tmp_path, capsys):
    answer = tmp_path / "gpu.json"
    flags = ["--device", "cpu", "--parts", "extract_net", "train_net", "--images", "1", "--rounds", "0"]
    gpu.main(gpu.get_args_parser().parse_args([*flags, "--json", str(answer), "--minutes", "1"]))
    report = json.loads(answer.read_text())
    assert set(report["parts"]) | set(report["left_out"]) == {"extract_net", "train_net"}
    assert report["parts"]["extract_net"]["result"]["failed"]
    with pytest.raises(InputError, match="--parts nothing"):
        gpu.parts(gpu.get_args_parser().parse_args(["--parts", "nothing"]))
