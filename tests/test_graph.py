"""The training step as a CUDA graph, on the CPU in the part of the GPU (`cuda_graphs.py`)."""

import contextlib
from types import SimpleNamespace

import cuda_graphs
import pytest
import torch
from conftest import benchmark, make_class_folders

import train
from appearance.cli import InputError, RunFailed
from appearance.data.batches import generator_for
from appearance.training import graph, recipe
from appearance.world import World
from model import build_model

gpu_checks, step_cost = benchmark("gpu_checks"), benchmark("step_cost")
WORLD = World(torch.device("cpu"))
# powers of two, so that float32 on the device and Python's numbers are the same
FACTORS = [1.0, 0.5, 2.0, 0.25, 0.5, 4.0, 1.0]


@pytest.fixture
def graphs(monkeypatch):
    return cuda_graphs.act(monkeypatch)


def learner(*flags, classes: int = 5) -> train.Learner:
    line = ["--amp", "fp32", "--lr", 2**-9, "--weight-decay", 2**-4, "--batch_size", 8, *flags]
    args = train.get_args_parser().parse_args([str(flag) for flag in line])
    recipe.fill_in(args)
    torch.manual_seed(0)
    made = train.Learner(args, WORLD, build_model(args.model, classes), classes, FACTORS)
    made.train_mode()
    return made


def steps(made: train.Learner, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Of other images, labels and augmentation each, with their losses."""
    losses = []
    for step, size in enumerate(sizes):
        torch.manual_seed(step)
        images = torch.randint(0, 256, (8, 3, *size), dtype=torch.uint8)
        numbers = made.augment.draw(8, *size, generator_for(0, 0, step))
        loss, correct = made.step(images, torch.randperm(8) % 5, numbers)
        losses.append(torch.stack([loss, correct]))
    return losses


def state(made: train.Learner) -> dict[str, torch.Tensor]:
    parts = {"objective": made.objective.state_dict(), "average": made.average.state_dict() if made.average else {}}
    found = {f"{part} {key}": value for part, values in parts.items() for key, value in values.items()}
    for number, values in made.optimizer.state_dict()["state"].items():
        found |= {f"optimizer {number} {key}": torch.as_tensor(value) for key, value in values.items()}
    return found


def assert_same(made: train.Learner, wanted: train.Learner) -> None:
    found, wanted = state(made), state(wanted)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "net"],
        ["--model", "osnet_x0_25", "--ema", "0.9"],
        ["--model", "osnet_x0_25", "--optimizer", "adamw", "--metric-loss", "arcface+circle"],
        ["--model", "osnet_x0_25", "--recipe", "deepsort"],
        ["--model", "osnet_x0_25", "--accumulate", "2", "--freeze-layers"],
    ],
    ids=lambda flags: " ".join(flags[1:]),
)
def test_replayed_steps_are_the_steps_they_replace(flags, graphs):
    plain, graphed = learner(*flags), learner(*flags, "--cuda-graph")
    sizes = [(32, 16)] * len(FACTORS)
    wanted, found = steps(plain, sizes), steps(graphed, sizes)
    assert [made.replays for made in graphs] == [len(FACTORS) - graph.WARM_UP]
    for one, other in zip(found, wanted, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)
    assert_same(graphed, plain)
    assert graphed.optimizer.param_groups[0]["lr"] == plain.optimizer.param_groups[0]["lr"] == 2**-9
    assert graphed.optimizer.state_dict()["param_groups"] == plain.optimizer.state_dict()["param_groups"]


def test_each_size_has_its_graph(graphs):
    plain, graphed = (learner("--model", "osnet_x0_25", *flags) for flags in ([], ["--cuda-graph"]))
    sizes = [(32, 16)] * 5 + [(48, 24)] * 5
    steps(plain, sizes), steps(graphed, sizes)
    assert [made.replays for made in graphs] == [2, 2]
    assert_same(graphed, plain)


def test_a_capture_trains_nothing(graphs, monkeypatch):
    """Or the step in which it is made would count twice."""
    plain, graphed = (learner("--model", "osnet_x0_25", *flags) for flags in ([], ["--cuda-graph"]))
    monkeypatch.setattr(cuda_graphs.Graph, "replay", lambda made: None)
    steps(plain, [(32, 16)] * graph.WARM_UP), steps(graphed, [(32, 16)] * (graph.WARM_UP + 1))
    assert len(graphs[0].operations) > 500
    assert_same(graphed, plain)


def lost_rate(monkeypatch):
    """The learning rate stays a number of Python's, as it is without a graph."""
    monkeypatch.setattr(graph.StepGraph, "_aside", lambda *_, **__: contextlib.nullcontext())


def lost_batch(monkeypatch):
    """The graph reads the memory of the batch that it was captured with."""
    call = graph.StepGraph.__call__

    def with_its_own(made, *batch):
        if made.graph:
            made.inputs = [tensor.clone() for tensor in made.inputs]
        return call(made, *batch)

    monkeypatch.setattr(graph.StepGraph, "__call__", with_its_own)


@pytest.mark.parametrize("lose", [lost_rate, lost_batch])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_what_a_graph_would_keep_for_ever_is_seen(lose, optimizer, graphs, monkeypatch):
    lose(monkeypatch)
    flags = ["--model", "osnet_x0_25", "--optimizer", optimizer]
    plain, graphed = learner(*flags), learner(*flags, "--cuda-graph")
    sizes = [(32, 16)] * (graph.WARM_UP + 3)
    steps(plain, sizes[: graph.WARM_UP + 1]), steps(graphed, sizes[: graph.WARM_UP + 1])
    assert_same(graphed, plain)  # the step that was captured is right
    steps(plain, sizes), steps(graphed, sizes)
    with pytest.raises(AssertionError):
        assert_same(graphed, plain)


def test_the_host_sends_little(graphs):
    """A training step of Net is more than 600 operations; with a graph the host sends the batch, rates and a start."""
    graphed = learner("--model", "osnet_x0_25", "--cuda-graph")
    steps(graphed, [(32, 16)] * (graph.WARM_UP + 1))
    made = graphs[0].operations
    batch = torch.zeros(8, 3, 32, 16, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    numbers = graphed.augment.draw(8, 32, 16, generator_for(0, 0))
    with step_cost.Watch("cpu") as watch:
        graphed.step(*batch, numbers)
    assert len(made) > 500
    assert watch.operations.total() <= 10


class Killed(Exception):
    pass


def test_a_whole_run_and_a_resumed_one(graphs, tmp_path, monkeypatch):
    data = make_class_folders(tmp_path / "people", images=6)
    flags = ["--data-dir", data, "--model", "osnet_x0_25", "--height", 32, "--width", 16, "--val-ratio", 0]
    flags += ["--batch_size", 4, "--no-progressive", "--amp", "fp32", "--eval-interval", 99, "--epochs", 3]
    flags += ["--lr", 2**-9, "--lrf", 1, "--warmup", 0, "--weight-decay", 2**-4]  # numbers that float32 has

    def run(name, *flags) -> dict:
        line = ["--output", tmp_path / name, *flags]
        train.main(train.get_args_parser().parse_args([str(word) for word in line]))
        return torch.load(tmp_path / name / "last.pth", weights_only=True)

    wanted = run("plain", *flags)
    monkeypatch.setattr(graph, "check", lambda *_: None)  # the CPU acts
    found = [run("graphed", *flags, "--cuda-graph")]
    assert [made.replays for made in graphs] == [12 - graph.WARM_UP]
    step, count = train.Learner.step, 0

    def dying_step(learner, *batch):
        nonlocal count
        count += 1
        if count == 9:
            raise Killed
        return step(learner, *batch)

    monkeypatch.setattr(train.Learner, "step", dying_step)
    with pytest.raises(Killed):
        run("parts", *flags, "--cuda-graph", "--save-interval", 2)
    found += [run("parts", "--resume")]
    assert [made.replays for made in graphs[1:]] == [8 - graph.WARM_UP, 4 - graph.WARM_UP]
    for one in found:
        assert one["scheduler"] == wanted["scheduler"]
        for key, value in wanted["net_dict"].items():
            assert torch.equal(one["net_dict"][key], value), key


@pytest.mark.parametrize(
    ("flags", "device", "size", "words"),
    [
        ([], "cpu", 1, "needs a GPU"),
        ([], "cuda", 2, "is for one process"),
        (["--amp", "fp16"], "cuda", 1, "does not go with --amp fp16.* take bf16"),
        (["--compile"], "cuda", 1, "does not go with --compile"),
    ],
)
def test_where_it_cannot_be(flags, device, size, words):
    args = train.get_args_parser().parse_args(["--cuda-graph", *flags])
    world = World(torch.device(device), size=size)
    with pytest.raises(InputError, match=f"^--cuda-graph: {words}"):
        graph.check(args, world)
    graph.check(train.get_args_parser().parse_args(flags), world)  # without the flag all may be


def test_a_step_that_cannot_be_captured_is_explained(graphs, monkeypatch):
    graphed = learner("--model", "osnet_x0_25", "--cuda-graph")

    end = cuda_graphs.Capture.__exit__

    def ending(capture, *exception):
        end(capture, *exception)
        raise RuntimeError("the capture was invalidated")

    def asking(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be")

    steps(graphed, [(32, 16)] * graph.WARM_UP)
    monkeypatch.setattr(cuda_graphs.Capture, "__exit__", ending)
    monkeypatch.setattr(graphed.objective, "forward", asking)
    words = (
        r"^--cuda-graph: the step cannot be captured \(operation not permitted when stream is capturing\); leave it out"
    )
    with pytest.raises(RunFailed, match=words):
        steps(graphed, [(32, 16)])
    assert isinstance(graphed.optimizer.param_groups[0]["lr"], float)


@pytest.mark.parametrize("lose", [None, lost_rate, lost_batch])
def test_the_check_for_a_gpu(lose, graphs, monkeypatch):
    """What `benchmarks/gpu.py` asks first: whether replayed steps are right there."""
    if lose:
        lose(monkeypatch)
    args = SimpleNamespace(model="osnet_x0_25", height=32, width=16, device=WORLD.device, small=True)
    found = gpu_checks.replayed(args)
    assert found["of_a_repetition"] == 0
    assert found["passed"] == (lose is None), found
