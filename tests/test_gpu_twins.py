"""What matters on a GPU, tested without one: the same code with the CPU, or a device without numbers, in its place."""

import copy
import math

import pytest
import torch
from conftest import call_script, load_script, make_market
from networks import lively_network, random_crops, write_checkpoint
from recipes import recipe_of
from torch import nn

import train
import train_multiGPU
import utils
from appearance import distributed
from appearance.cli import InputError, RunFailed
from appearance.data import augment as augment_module
from appearance.data.augment import Augment
from appearance.distributed import World
from appearance.failures import explained_failures
from appearance.measure import metrics, rerank
from appearance.measure.embed import extract_features
from appearance.networks.inference import fuse_for_inference
from appearance.networks.precision import fastest_precision, full_precision
from appearance.training.optimizer import build_optimizer
from feature_extractor import Extractor
from model import build_model

CPU = torch.device("cpu")


# -- the optimizer -----------------------------------------------------------------------------------------------------


@pytest.fixture
def memory_full_of_nan():
    """Whoever reads memory that nobody wrote gets NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_first_step_that_overflows_in_fp16_leaves_no_trace(optimizer, memory_full_of_nan):
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    before = copy.deepcopy(net.state_dict())
    recipe = recipe_of("--optimizer", optimizer, "--amp", "fp16", "--lr", 0.01)
    optimizer, *_ = build_optimizer(net, recipe, steps_per_epoch=1)
    for group in optimizer.param_groups:
        group["lr"] = 0.01  # no warm-up
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for gradient in (math.inf, 1.0):
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        scaler.scale(net(torch.zeros(1, 4, 1, 1)).sum()).backward()
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, gradient * 512)
        scaler.step(optimizer)
        scaler.update()
    moved = max((value - before[key]).abs().max() for key, value in net.state_dict().items())
    assert 0 < moved < 0.1


# -- arithmetic --------------------------------------------------------------------------------------------------------


SETTINGS = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)


def settings() -> list[str]:
    return [setting.fp32_precision for setting in SETTINGS]


def test_features_are_made_in_true_float32(tmp_path):
    class Probe(nn.Module):
        feature_dim = 2

        def embed(self, images):
            seen.append(settings())
            return images.mean((2, 3))[:, :2]

        forward = embed

    seen, before = [], settings()
    extract_features(Probe(), [torch.zeros(2, 3, 8, 4, dtype=torch.uint8)], World(CPU))
    extractor = Extractor(write_checkpoint(tmp_path / "net.pth", "osnet_x0_25"))
    extractor.net = Probe()
    extractor(random_crops(2))
    assert seen == [["ieee", "ieee"]] * 2
    assert settings() == before


def test_the_precision_setting_comes_back_after_an_error():
    before = settings()
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize(("has_it", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bfloat16_on_a_gpu_that_has_it(has_it, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it and not including_emulation)
    assert fastest_precision(nn.Identity(), 32, 16, torch.device("cuda")) == chosen


@pytest.mark.parametrize("loss", ["cosine", "triplet", "circle"])
def test_metric_losses_are_float32_under_autocast(loss):
    class Net(nn.Module):
        feature_dim = 16

        def __init__(self):
            super().__init__()
            self.features = nn.Parameter(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)))

        def embed(self, images):
            return self.features

        def classify(self, features):
            return features[:, :4]

    def gradients(dtype):
        torch.manual_seed(0)
        recipe = recipe_of("--metric-loss", loss, "--classifier-weight", 0, "--margin", 0.2)
        objective = train.ReIDLoss(Net(), 4, recipe)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            value, _ = objective(torch.zeros(12), torch.arange(12) // 3)
        value.backward()
        return [parameter.grad for parameter in objective.parameters()]

    for found, wanted in zip(gradients(torch.bfloat16), gradients(None), strict=True):
        assert torch.equal(found, wanted)


def test_sums_of_re_ranking_are_taken_in_a_fixed_order(monkeypatch):
    fixed, plain = [], torch.Tensor.index_add_

    def index_add_(sums, *rest):
        fixed.append(torch.are_deterministic_algorithms_enabled())
        return plain(sums, *rest)

    monkeypatch.setattr(torch.Tensor, "index_add_", index_add_)
    rows = nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)))
    rerank.re_ranking(rows[:10], rows[10:])
    assert len(fixed) >= 3
    assert all(fixed)
    assert not torch.are_deterministic_algorithms_enabled()


def test_batch_norm_over_processes_is_folded_like_any_other():
    net = lively_network("net")
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    images = torch.randn(2, 3, 32, 16)
    fused = fuse_for_inference(shared)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in fused.layer1.modules())
    with torch.no_grad():
        assert torch.equal(fused.embed(images), fuse_for_inference(net).embed(images))


# -- memory and devices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_every_way_to_say_that_memory_is_full(error):
    with pytest.raises(RunFailed, match=r"^out of memory; do this$"), explained_failures("do this"):
        raise error


def test_test_py_advises_flags_that_it_has(monkeypatch):
    script = load_script("test.py")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(script, "current_world", full)
    with pytest.raises(RunFailed, match=r"out of memory; lower --batch_size$"):
        script.main(script.get_args_parser().parse_args([]))


def test_one_gpu_for_all_processes_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"--device cuda:1: all 2 processes would share one GPU"):
        distributed.join_process_group("cuda:1")


def test_a_device_without_its_number_is_the_device_with_it():
    rows = nn.functional.normalize(torch.randn(40, 8))
    assert torch.device("cpu") != torch.device("cpu:0")  # so it is with "cuda" and "cuda:0"
    similarity = metrics.Similarity(rows, rows, 10**6, "cpu:0")
    assert similarity.memory_left == 10**6  # nothing was copied
    assert similarity.ready[0].data_ptr() == rows.data_ptr()


def test_augmentation_numbers_travel_in_one_copy(monkeypatch):
    augment = Augment(jitter=0.2, erase=0.5)
    drawn = augment.draw(6, 40, 20, torch.Generator().manual_seed(0))
    copies = []

    def to_device(tensor, device):
        copies.append(tensor)
        return tensor

    monkeypatch.setattr(augment_module, "to_device", to_device)
    arrived = drawn.to(torch.device("meta"))  # whose numbers stayed here
    assert len(copies) == 1
    pixels = torch.randint(0, 256, (6, 3, 40, 20), dtype=torch.uint8)
    assert torch.equal(augment.apply(pixels, drawn), augment.apply(pixels, arrived))


def test_compiling_makes_one_static_graph_for_each_size(monkeypatch):
    shapes, plain = [], torch.compile

    def backend(graph, inputs):
        shapes.extend(tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor) and x.ndim == 4 and x.shape[1] == 3)
        return graph

    monkeypatch.setattr(torch, "compile", lambda module, **options: plain(module, backend=backend, **options))
    model = World(CPU).wrapped(train.ReIDLoss(build_model("net", 4), 4, recipe_of()), compile=True)
    for size in ((32, 16), (48, 24), (64, 32), (32, 16)):
        model(torch.zeros(8, 3, *size), torch.arange(8) % 4)
    assert [shape for shape in shapes if shape[0] == 8] == [(8, 3, 32, 16), (8, 3, 48, 24), (8, 3, 64, 32)]


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def group(monkeypatch):
    """A process group that notes when it is left."""
    left = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append(1))
    monkeypatch.setattr(train_multiGPU, "join_process_group", lambda *_: World(CPU))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    return left


def test_a_rank_that_fails_does_not_wait_for_its_peers(group, monkeypatch):
    def main(args, world, default_arch):
        assert default_arch == "resnet18"
        if fails:
            raise RuntimeError("a kernel")

    monkeypatch.setattr(train, "main", main)
    args = train_multiGPU.get_args_parser().parse_args([])
    fails = True
    with pytest.raises(RuntimeError, match="a kernel"):
        train_multiGPU.main(args)
    assert group == []
    fails = False
    train_multiGPU.main(args)
    assert group == [1]


def test_test_py_leaves_its_group(tmp_path, monkeypatch):
    class Told(World):
        def leave(self):
            left.append(self.rank)

    left = []
    data, weights = make_market(tmp_path / "data"), write_checkpoint(tmp_path / "net.pth", "osnet_x0_25")
    monkeypatch.setattr(utils, "current_world", lambda *_: Told(CPU))
    result = call_script("test.py", "--data-dir", data, "--weights", weights, cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert left == [0]


def test_batch_norm_over_processes_is_not_compiled(group, monkeypatch):
    monkeypatch.setattr(train, "main", lambda *_, **__: None)
    with pytest.raises(InputError, match="--syncBN --compile"):
        train_multiGPU.main(train_multiGPU.get_args_parser().parse_args(["--syncBN", "--compile"]))
