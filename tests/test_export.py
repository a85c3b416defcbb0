"""Exports: every file gives the checkpoint's vectors, and a file that does not is not written."""

import dataclasses
import json
import re
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import make_market, run_script
from networks import random_crops, write_checkpoint
from torch import Tensor

import export
from appearance.cli import InputError, RunFailed
from appearance.networks import checkpoints, runtimes
from feature_extractor import Extractor
from model import Net

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def published_network(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The published network on nothing but the names in its file: (N, 3, 128, 64) normalised -> (N, 512) unit rows."""

    def norm(x, name):
        w = weights
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"], training=False)

    x = F.conv2d(images, weights["conv.0.weight"], weights["conv.0.bias"], padding=1)
    x = F.max_pool2d(F.relu(norm(x, "conv.1")), 3, 2, padding=1)
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        for block in (f"{layer}.0", f"{layer}.1"):
            halves = f"{block}.downsample.0.weight" in weights
            y = F.conv2d(x, weights[f"{block}.conv1.weight"], stride=2 if halves else 1, padding=1)
            y = F.conv2d(F.relu(norm(y, f"{block}.bn1")), weights[f"{block}.conv2.weight"], padding=1)
            if halves:
                x = norm(F.conv2d(x, weights[f"{block}.downsample.0.weight"], stride=2), f"{block}.downsample.1")
            x = F.relu(x + norm(y, f"{block}.bn2"))
    return F.normalize(x.mean((2, 3)), dim=1)


def normalised(crops: list[np.ndarray]) -> Tensor:
    """Crops of the network's size, as deep_sort_pytorch prepares them."""
    images = torch.from_numpy(np.stack(crops)).float() / 255  # (N, H, W, 3)
    return ((images - MEAN) / STD).permute(0, 3, 1, 2)


def sized_crops(height: int, width: int, count: int = 5) -> list[np.ndarray]:
    from torchvision.transforms.v2.functional import resize

    crops = [torch.from_numpy(crop).permute(2, 0, 1) for crop in random_crops(count)]
    return [resize(crop, [height, width]).permute(1, 2, 0).contiguous().numpy() for crop in crops]


def run_export(*args) -> None:
    export.main(export.get_args_parser().parse_args(list(map(str, args))))


pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # the tests call it themselves


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("data") / "market", train_ids=6)


def test_ckpt_in_the_published_network(tmp_path, data):
    weights = write_checkpoint(tmp_path / "best.pth", height=128, width=64)
    run_export("--weights", weights, "--format", "ckpt", "--output", tmp_path, "--data-dir", data)
    content = torch.load(tmp_path / "ckpt.t7", weights_only=True)
    assert set(content) == {"net_dict", "acc", "epoch"}
    lacking = Net(751).load_state_dict(content["net_dict"], strict=False)
    assert lacking.unexpected_keys == []
    assert all(key.startswith("classifier.") for key in lacking.missing_keys)

    crops = sized_crops(128, 64)
    wanted = Extractor(weights, use_cuda=False)(crops)
    found = published_network(content["net_dict"], normalised(crops)).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(Extractor(tmp_path / "ckpt.t7", use_cuda=False)(crops), wanted, atol=1e-6)


def test_ckpt_refuses_what_deep_sort_pytorch_cannot_use(tmp_path, data):
    small = write_checkpoint(tmp_path / "small.pth", height=64, width=32)
    other = write_checkpoint(tmp_path / "other.pth", "osnet_x0_25")
    for weights, words in ((small, "128x64"), (other, "osnet_x0_25")):
        with pytest.raises(InputError, match=words):
            run_export("--weights", weights, "--format", "ckpt", "--output", tmp_path / "out", "--data-dir", data)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("place", ["outside", "inside"])
@pytest.mark.parametrize("arch", ["net", "osnet_x0_25", "mobilenet_v2"])
def test_graphs_give_the_same_vectors(tmp_path, data, arch, place, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    weights = write_checkpoint(tmp_path / "best.pth", arch)
    run_export(
        *("--weights", weights, "--format", "onnx", "torchscript", "--normalize", place),
        *("--output", tmp_path, "--data-dir", data),
    )
    crops = sized_crops(64, 32)
    wanted = Extractor(weights, use_cuda=False)(crops)
    images = normalised(crops)
    if place == "inside":
        images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255

    name = f"{arch}_64x32" + ("_inside" if place == "inside" else "")
    session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape[1:], given.type) == ("images", [3, 64, 32], "tensor(float)")
    net = torch.jit.load(str(tmp_path / f"{name}.torchscript"))
    for batch in (images, images[:1]):
        (rows,) = session.run(None, {"images": batch.contiguous().numpy()})
        np.testing.assert_allclose(rows, wanted[: len(batch)], atol=1e-4)
        np.testing.assert_allclose(net(batch).detach().numpy(), wanted[: len(batch)], atol=1e-4)

    with pytest.raises(Exception, match=r"(?s)invalid dimensions.*Got: 256 Expected: 64"):
        session.run(None, {"images": np.zeros((2, 3, 256, 128), np.float32)})

    described = runtimes.load(tmp_path / f"{name}.onnx")
    assert (described.arch, described.height, described.width) == (arch, 64, 32)
    assert described.inside == (place == "inside")
    lines = [line for line in capsys.readouterr().out.splitlines() if "rank-1" in line]
    assert len(lines) == 3  # the checkpoint's and each file's, on the data root
    assert len({line[line.index("rank-1") :].split("  ")[0] for line in lines}) == 1


def test_a_wrong_size_or_normalisation_is_an_error(tmp_path, data):
    """In TorchScript here, in ONNX above; in BoxMOT by what lies beside the file: a size, or a key that it refuses."""
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    names = ["osnet_x0_25_64x32", "osnet_x0_25_64x32_inside"]
    for place in ("outside", "inside"):
        run_export(
            *("--weights", weights, "--format", "torchscript", "--normalize", place),
            *("--output", tmp_path, "--data-dir", data),
        )
    files = {f"{name}.torchscript{more}" for name in names for more in ("", ".metadata.json")}
    assert {path.name for path in tmp_path.iterdir() if path.name != "best.pth"} == files
    outside, inside = (torch.jit.load(str(tmp_path / f"{name}.torchscript")) for name in names)
    right = torch.rand(2, 3, 64, 32)
    for wrong in (torch.rand(2, 3, 256, 128), torch.rand(2, 3, 32, 64), torch.rand(2, 1, 64, 32), right[0]):
        for net in (outside, inside):
            with pytest.raises(torch.jit.Error, match=r"images must have shape \(N, 3, 64, 32\), not "):
                net(wrong)
    for wrong in ((right - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1), right * 255):
        assert outside(wrong).shape == (2, 512)
        with pytest.raises(torch.jit.Error, match="images must be from 0 to 1; do not normalise"):
            inside(wrong)
    assert inside(right[:0]).shape == (0, 512)

    of_outside, of_inside = (json.loads((tmp_path / f"{name}.torchscript.metadata.json").read_text()) for name in names)
    assert (of_outside["model_name"], of_outside["img_size"]) == ("osnet_x0_25", [64, 32])
    assert (of_outside["model_kwargs_schema_version"], of_outside["model_kwargs"]) == (1, {"img_size": [64, 32]})
    assert [key for key in of_inside["model_kwargs"] if "export it with --for boxmot" in key]


def test_a_folder_for_the_package_reid(tmp_path, data):
    pytest.importorskip("safetensors")
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    flags = ("--weights", weights, "--format", "reid", "--output", tmp_path, "--data-dir", data)
    for _ in range(2):  # the second time it replaces the first
        run_export(*flags)
    folder = tmp_path / "osnet_x0_25_64x32_reid"
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "reid_config.json"}
    config = json.loads((folder / "reid_config.json").read_text())
    assert config["architecture"] == "osnet_x0_25"
    assert config["preprocessing"]["input_size"] == [64, 32]
    assert config["preprocessing"]["mean"] == pytest.approx(MEAN.tolist())
    assert config["preprocessing"]["std"] == pytest.approx(STD.tolist())
    crops = random_crops(3)
    found = Extractor(folder / "weights.safetensors", use_cuda=False, height=64, width=32)(crops)
    np.testing.assert_allclose(found, Extractor(weights, use_cuda=False)(crops), atol=1e-6)
    net = write_checkpoint(tmp_path / "net.pth")
    with pytest.raises(InputError, match="--format reid: the package reid supports only OSNets"):
        run_export(*flags, "--weights", net)


def test_the_file_that_a_program_wants(tmp_path, data, capsys):
    def wanted(host: str, weights, *more) -> tuple[list[str], str]:
        args = export.get_args_parser().parse_args(["--for", host, *more])
        return export.files_wanted(args, checkpoints.load(weights))

    osnet = write_checkpoint(tmp_path / "osnet.pth", "osnet_x0_25")
    resnet = write_checkpoint(tmp_path / "resnet.pth", "resnet18", last_stride=1, pooling="avg")
    assert wanted("ultralytics", osnet) == (["onnx"], "inside")
    assert wanted("reid", osnet) == (["reid"], "outside")
    assert wanted("deep_sort_pytorch", osnet) == (["ckpt"], "outside")
    assert wanted("boxmot", osnet) == (["boxmot"], "outside")
    assert capsys.readouterr().out == ""
    assert wanted("boxmot", resnet) == (["onnx"], "outside")
    assert "note: BoxMOT's resnet18 has last stride 2" in capsys.readouterr().out
    for more in (["--format", "onnx"], ["--normalize", "inside"]):
        with pytest.raises(InputError, match="--for boxmot: sets --format and --normalize; leave"):
            wanted("boxmot", osnet, *more)
    run_export("--weights", osnet, "--for", "boxmot", "--output", tmp_path / "out", "--data-dir", data)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["osnet_x0_25_reid.pt"]


def test_both_directions_in_one_file(tmp_path, data):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    run_export(
        *("--weights", weights, "--flip", "--format", "onnx", "torchscript", "--output", tmp_path, "--data-dir", data)
    )
    crops = random_crops()
    one, mirrored = (Extractor(weights, use_cuda=False)(list(c)) for c in (crops, (c[:, ::-1] for c in crops)))
    by_hand = (one + mirrored) / np.linalg.norm(one + mirrored, axis=1, keepdims=True)
    assert (1 - (by_hand * one).sum(1)).min() > 1e-4  # or nothing would be shown
    np.testing.assert_allclose(Extractor(weights, use_cuda=False, flip=True)(crops), by_hand, atol=1e-5)
    for suffix in runtimes.SUFFIXES:
        path = tmp_path / f"osnet_x0_25_64x32_flip{suffix}"
        assert runtimes.load(path).flip
        for flip in (False, True):  # it is inside: asked for once more, it is not done twice
            np.testing.assert_allclose(Extractor(path, flip=flip)(crops), by_hand, atol=1e-4)
    with pytest.raises(InputError, match="--flip: boxmot files have weights only"):
        run_export("--weights", weights, "--flip", "--format", "boxmot", "--output", tmp_path)


def test_int8(tmp_path, data):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    weights = write_checkpoint(tmp_path / "best.pth")
    run_export("--weights", weights, "--format", "onnx", "onnx-int8", "--output", tmp_path, "--data-dir", data)
    whole, small = tmp_path / "net_64x32.onnx", tmp_path / "net_64x32_int8.onnx"
    assert small.stat().st_size < 0.3 * whole.stat().st_size
    crops = random_crops()
    apart = 1 - (Extractor(weights, use_cuda=False)(crops) * Extractor(small)(crops)).sum(1)
    assert 1e-6 < apart.max() < 0.05
    sidecars = [f"{path.name}.metadata.json" for path in (whole, small)]
    assert {path.name for path in tmp_path.iterdir()} == {"best.pth", whole.name, small.name, *sidecars}


def test_boxmot_resnet_is_torchvisions(tmp_path, data):
    weights = write_checkpoint(tmp_path / "best.pth", "resnet18", last_stride=2, pooling="avg")
    run_export("--weights", weights, "--format", "boxmot", "--output", tmp_path, "--data-dir", data)
    content = torch.load(tmp_path / "resnet18_reid.pt", weights_only=True)
    assert (content["model_name"], content["img_size"]) == ("resnet18", [64, 32])
    net = torchvision.models.resnet18()
    assert net.load_state_dict(content["state_dict"], strict=False) == (["fc.weight", "fc.bias"], [])
    net.fc = torch.nn.Identity()
    crops = sized_crops(64, 32)
    with torch.no_grad():
        found = F.normalize(net.eval()(normalised(crops)), dim=1).numpy()
    np.testing.assert_allclose(found, Extractor(weights, use_cuda=False)(crops), atol=1e-4)


def test_boxmot_osnet(tmp_path, data):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    run_export("--weights", weights, "--format", "boxmot", "--output", tmp_path, "--data-dir", data)
    content = torch.load(tmp_path / "osnet_x0_25_reid.pt", weights_only=True)
    assert content["model_name"] == "osnet_x0_25"
    assert "fc.0.weight" in content["state_dict"]  # of the features, not of the identities
    assert not any(key.startswith("classifier") for key in content["state_dict"])


def test_half_the_size(tmp_path, data):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    for folder, flags in ((tmp_path / "whole", []), (tmp_path / "half", ["--half"])):
        run_export("--weights", weights, "--format", "boxmot", "--output", folder, "--data-dir", data, *flags)
    whole, half = (tmp_path / folder / "osnet_x0_25_reid.pt" for folder in ("whole", "half"))
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    kept = torch.load(half, weights_only=True)["state_dict"]
    assert {value.dtype for value in kept.values()} == {torch.float16, torch.int64}
    crops = sized_crops(64, 32)
    found = Extractor(half, use_cuda=False)
    assert {value.dtype for value in found.net.parameters()} == {torch.float32}
    np.testing.assert_allclose(found(crops), Extractor(weights, use_cuda=False)(crops), atol=3e-3)
    with pytest.raises(InputError, match="--half: not possible for onnx files"):
        run_export("--weights", weights, "--half", "--output", tmp_path / "onnx", "--data-dir", data)


@pytest.mark.parametrize(
    ("arch", "options", "words"),
    [
        ("net", {}, "does not support net"),
        ("resnet18", {"last_stride": 1, "pooling": "avg"}, "last stride 2"),
        ("resnet18", {"last_stride": 2, "pooling": "avg", "neck": "bn"}, "no neck"),
    ],
)
def test_boxmot_refuses_what_it_would_build_otherwise(tmp_path, data, arch, options, words):
    weights = write_checkpoint(tmp_path / "best.pth", arch, **options)
    with pytest.raises(InputError, match=words):
        run_export("--weights", weights, "--format", "boxmot", "--output", tmp_path / "out", "--data-dir", data)


def test_a_wrong_file_is_not_written(tmp_path, data, monkeypatch):
    weights = write_checkpoint(tmp_path / "best.pth", height=128, width=64)
    (tmp_path / "ckpt.t7").write_text("what was there before")

    def spoil(job, path):
        export.write_ckpt(job, path)
        content = checkpoints.read(path)
        content["net_dict"]["layer4.1.bn2.bias"] += torch.linspace(-1, 1, 512)
        checkpoints.save(path, content)

    monkeypatch.setitem(export.FORMATS, "ckpt", dataclasses.replace(export.FORMATS["ckpt"], write=spoil))
    with pytest.raises(RunFailed, match="cosine difference"):
        run_export("--weights", weights, "--format", "ckpt", "--output", tmp_path, "--data-dir", data)
    assert (tmp_path / "ckpt.t7").read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth", "ckpt.t7"]


def test_missing_packages_are_named_with_their_install_line(tmp_path, data, monkeypatch):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with pytest.raises(InputError, match="pip install onnx"):
        run_export("--weights", weights, "--format", "onnx", "--output", tmp_path, "--data-dir", data)


def test_foreign_and_broken_files(tmp_path):
    pytest.importorskip("onnxruntime")
    for name in ("broken.onnx", "broken.torchscript"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(InputError, match="not a readable"):
            Extractor(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        Extractor(tmp_path / "missing.onnx")
    foreign = torch.jit.trace(torch.nn.Identity(), torch.zeros(1, 3, 8, 8))
    torch.jit.save(foreign, str(tmp_path / "foreign.torchscript"))
    with pytest.raises(InputError, match="does not contain its input size and normalisation"):
        Extractor(tmp_path / "foreign.torchscript")


def test_a_size_that_the_checkpoint_does_not_say(tmp_path, data, capsys):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    torch.save(checkpoints.read(weights)["net_dict"], tmp_path / "bare.pth")
    flags = ("--weights", tmp_path / "bare.pth", "--format", "torchscript", "--output", tmp_path, "--data-dir", data)
    run_export(*flags)
    assert "bare.pth does not say its input size; using 128x64; if" in capsys.readouterr().out
    run_export(*flags, "--height", 64, "--width", 32)
    assert "note" not in capsys.readouterr().out
    crops = random_crops(3)
    found = Extractor(tmp_path / "osnet_x0_25_64x32.torchscript")(crops)
    np.testing.assert_allclose(found, Extractor(weights, use_cuda=False)(crops), atol=1e-4)
    with pytest.raises(InputError, match="--height 5000: must be from 1 to 4096"):
        run_export(*flags, "--height", 5000)
    with pytest.raises(InputError, match=r"is a TorchScript file, not a checkpoint; give the checkpoint"):
        run_export("--weights", tmp_path / "osnet_x0_25_64x32.torchscript")


def test_command_line(tmp_path, data):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    options = ("--weights", weights, "--data-dir", data)
    done = run_script("export.py", *options, "--format", "torchscript", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    assert "cosine difference" in done.stdout
    assert (tmp_path / "export" / "osnet_x0_25_64x32.torchscript").is_file()


def test_without_a_dataset_drawn_people_are_compared_and_none_are_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("APPEARANCE_DATA", str(tmp_path / "data"))
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    run_export("--weights", weights, "--format", "torchscript", "--output", tmp_path / "out")
    assert re.search(r"torchscript +cosine difference at most \S+e-", capsys.readouterr().out)
    assert {path.name for path in tmp_path.iterdir()} == {"best.pth", "out"}
    pixels = export.drawn(5, checkpoints.load(weights))
    assert (pixels.shape, pixels.dtype) == ((5, 3, 64, 32), torch.uint8)
    assert len({row.numpy().tobytes() for row in pixels}) == 5
