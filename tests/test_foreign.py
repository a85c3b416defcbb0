"""Checkpoints from elsewhere: found under any wrapping, refused where their vector would be another one."""

import argparse
import pathlib
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import lively_network

from appearance.cli import InputError
from appearance.networks import checkpoints, foreign
from model import ARCHITECTURES, build_model, from_checkpoint

IMAGES = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def osnet():
    return lively_network("osnet_x0_25", 7)


@pytest.fixture(scope="module")
def resnet():
    """torchvision's own resnet18, not this collection's."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=7).eval()


def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def without(prefix, weights):
    return {name: value for name, value in weights.items() if not name.startswith(prefix)}


def linear(name, rows, columns, bias=True):
    weights = {f"{name}.weight": torch.randn(rows, columns)}
    return weights | ({f"{name}.bias": torch.zeros(rows)} if bias else {})


def batch_norm(name, channels):
    return under(f"{name}.", torch.nn.BatchNorm1d(channels).state_dict())


def load(tmp_path, content):
    torch.save(content, tmp_path / "theirs.pth")
    return checkpoints.load(tmp_path / "theirs.pth")


@torch.inference_mode()
def vectors(net):
    return F.normalize(net.embed(IMAGES), dim=1)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_looking_for_a_network_leaves_random_numbers_alone(name):
    """A training that starts from weights draws what it would draw without them."""
    before = torch.get_rng_state()
    foreign._tensors.cache_clear()
    assert len(foreign.classifier(name)) < len(foreign.trunk(name))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: under("module.", w),
        lambda w: under("_orig_mod.", w),
        lambda w: under("module._orig_mod.model.", w),
        lambda w: {name.replace("conv3.0.", "conv3._orig_mod.0."): value for name, value in w.items()},
        lambda w: {"state_dict": under("model.", w), "epoch": 3, "global_step": 9, "loops": {"a": {"b": 1}}},
        lambda w: {"state_dict": under("net.encoder.", w) | {"loss.centers": torch.randn(7, 512)}},
        lambda w: {"state_dict": under("reid.", w) | under("loss.vgg.", {"0.weight": torch.randn(3, 3, 3, 3)})},
        lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}},
        lambda w: {"model_state_dict": under("module.", w)},
        lambda w: {"ema": under("module.", w) | {"n_averaged": torch.tensor(3)}},
        lambda w: {"checkpoint": {"network": under("backbone.", w)}, "best": 0.5},
        lambda w: under("student.", w) | under("teacher.", w),  # the same twice
        lambda w: under("model.", w) | {"mean": torch.tensor([[[0.485]], [[0.456]], [[0.406]]])},
        lambda w: under("model.", without("classifier.", w)) | linear("classifier", 5, 512),
        lambda w: under("model.backbone.", without("classifier.", w)) | linear("model.arcface", 5, 512, bias=False),
    ],
    ids=range(15),
)
def test_a_network_is_found_under_any_wrapping(tmp_path, osnet, wrap):
    loaded = load(tmp_path, wrap(osnet.state_dict()))
    assert loaded.arch == "osnet_x0_25"
    assert loaded.notes == ()
    assert torch.equal(vectors(from_checkpoint(loaded)), vectors(osnet))
    fresh = build_model("osnet_x0_25", 3)
    assert "trunk" not in checkpoints.load_pretrained(fresh, "osnet_x0_25", loaded)
    assert torch.equal(fresh.conv1.conv.weight, osnet.conv1.conv.weight)


@pytest.mark.parametrize("name", ["net", "mobilenet_v2"])
def test_other_networks_are_found_as_well(tmp_path, name):
    net = lively_network(name, 7)
    loaded = load(tmp_path, {"state_dict": under("model.backbone.", net.state_dict())})
    assert (loaded.arch, loaded.num_classes) == (name, 7)
    assert torch.equal(vectors(from_checkpoint(loaded).eval()), vectors(build_with(net, loaded)))


def build_with(net, loaded):
    """The network with the stride that is assumed of a file that does not tell."""
    if "last_stride" not in loaded.model_options:
        return net
    other = build_model(loaded.arch, 7, last_stride=2)
    other.load_state_dict(net.state_dict())
    return other.eval()


def test_torchreids_resnet_and_a_head_of_unclear_purpose(tmp_path, resnet):
    with torch.inference_mode():
        trunk = torch.nn.Sequential(*list(resnet.children())[:-1])
        wanted = F.normalize(trunk(IMAGES).flatten(1), dim=1)
    weights = without("fc.", resnet.state_dict())
    loaded = load(tmp_path, weights | linear("classifier", 7, 512))
    assert loaded.notes == ()
    torch.testing.assert_close(vectors(from_checkpoint(loaded)), wanted)
    loaded = load(tmp_path, {"state_dict": under("backbone.", weights) | linear("head", 7, 512)})
    torch.testing.assert_close(vectors(from_checkpoint(loaded)), wanted)
    (note,) = loaded.notes
    assert "theirs.pth: head looks like the classifier" in note


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (
            lambda t: t | linear("fc.0", 512, 512) | batch_norm("fc.1", 512) | linear("classifier", 7, 512),
            "fc.0.weight",
        ),
        (
            lambda t: under("base.", t) | batch_norm("bottleneck", 512) | linear("classifier", 7, 512),
            "bottleneck.weight",
        ),
        (
            lambda t: {
                "model": under("backbone.", t) | batch_norm("heads.bottleneck.0", 512) | linear("heads", 7, 512)
            },
            "heads.bottleneck.0.weight",
        ),
        (
            lambda t: (
                under("model.", t | linear("fc", 1000, 512))
                | linear("classifier.add_block.0", 512, 512)
                | batch_norm("classifier.add_block.1", 512)
                | linear("classifier.classifier.0", 7, 512)
            ),
            "classifier.add_block.0.weight",
        ),
        (lambda t: under("net.", t) | linear("embedding", 128, 512) | linear("head", 7, 128), "embedding.weight"),
        (lambda t: under("net.", t) | linear("projection", 128, 512), "projection.weight"),
        (lambda t: under("net.", t) | linear("head.0", 512, 512) | linear("head.2", 7, 512), "head.0.weight"),
        (lambda t: under("net.", t | linear("fc", 512, 512)) | linear("head", 7, 512), "head.weight"),
        (lambda t: under("net.", t) | {"pool.p": torch.tensor([3.0])}, "pool.p"),
        (lambda t: under("net.", t) | {"mean": torch.full((1, 3, 1, 1), 0.5)}, "mean"),
        (lambda t: t | {"layer1.0.se.fc1.weight": torch.randn(4, 64, 1, 1)}, "layer1.0.se.fc1.weight"),
    ],
    ids=range(11),
)
def test_what_changes_the_vector_is_refused_by_name_and_can_be_trained_from(tmp_path, resnet, beside, named):
    loaded = load(tmp_path, beside(without("fc.", resnet.state_dict())))
    with pytest.raises(InputError, match=r"theirs\.pth: does not fit resnet18: it also has ") as caught:
        from_checkpoint(loaded)
    assert named in str(caught.value)
    net = build_model("resnet18", 3)
    assert "of the file are not used" in checkpoints.load_pretrained(net, "resnet18", loaded)
    assert torch.equal(net.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)


def test_a_missing_layer_is_not_filled_with_random_numbers(tmp_path, osnet):
    weights = without("fc.", without("classifier.", osnet.state_dict()))  # as fast-reid names an OSNet's trunk
    with pytest.raises(InputError, match=r"does not fit osnet_x0_25: 7 of 567 tensors are missing: fc\.0\.weight, "):
        from_checkpoint(load(tmp_path, under("backbone.", weights)))


def test_two_networks_are_not_chosen_between(tmp_path, osnet):
    weights = osnet.state_dict()
    other = {name: value + 1 for name, value in weights.items()}
    with pytest.raises(InputError, match=r"contains 2 networks \(student\., teacher\.\)"):
        load(tmp_path, under("student.", weights) | under("teacher.", other))
    with pytest.raises(InputError, match=r"contains 2 networks \(\['model'\], \['ema'\]\)"):
        load(tmp_path, {"model": weights, "ema": other})
    loaded = load(tmp_path, {"state_dict": weights, "state_dict_ema": other})
    assert torch.equal(vectors(from_checkpoint(loaded)), vectors(osnet))
    (note,) = loaded.notes
    assert note.endswith("using the one in ['state_dict'], not ['state_dict_ema']")


def test_a_refusal_names_the_nearest_network_and_a_few_keys(tmp_path, osnet):
    weights = osnet.state_dict()
    shapes = sum(1 for name in weights if not name.endswith("tracked") and not name.startswith("classifier"))
    half = {name: value for name, value in weights.items() if not name.startswith(("conv1.", "conv2."))}
    lost = sum(1 for name in weights if name.startswith(("conv1.", "conv2.")) and not name.endswith("tracked"))
    with pytest.raises(InputError) as caught:
        load(tmp_path, under("model.", half) | {"model.attention.query": torch.zeros(4, 4)})
    words = str(caught.value)
    assert f"the closest is osnet_x0_25: {shapes - lost} of its {shapes} tensors fit" in words
    assert (
        "unknown: model.classifier.weight, model.classifier.bias, model.attention.query; missing: conv1.conv.we"
        in words
    )
    with pytest.raises(
        InputError, match=r"no tensor fits any of net, resnet18, .*; the file has blocks\.0\.attn\.qkv\.weight"
    ):
        load(tmp_path, {"blocks.0.attn.qkv.weight": torch.zeros(6, 2)})
    with pytest.raises(InputError, match="the file contains no tensors"):
        load(tmp_path, {"epoch": 3})
    with torch.device("meta"):
        deep = torchvision.models.resnet101(weights=None).state_dict()
    with pytest.raises(InputError, match=r"closest is resnet50: 265 of its 265 tensors fit; unknown: layer3\.6\.conv1"):
        checkpoints.recognise(deep, "resnet101.pth")


def test_what_training_programs_note_beside_the_weights_does_not_matter(tmp_path, osnet):
    notes = {"rank1": np.float32(0.5), "mAP": np.float64(0.4), "cfg": argparse.Namespace(out=pathlib.Path("out"))}
    loaded = load(tmp_path, {"state_dict": osnet.state_dict()} | notes)
    assert torch.equal(vectors(from_checkpoint(loaded)), vectors(osnet))
    with pytest.raises(
        InputError,
        match=r"Python objects .* \(appearance\.networks\.osnet\.Block, .*\), or is not a checkpoint; save only",
    ):
        load(tmp_path, osnet)


def test_safetensors(tmp_path, osnet):
    files = pytest.importorskip("safetensors.torch")
    for name in ("theirs.safetensors", "renamed.pt"):
        files.save_file(under("model.", osnet.state_dict()), tmp_path / name)
        loaded = checkpoints.load(tmp_path / name)
        assert torch.equal(vectors(from_checkpoint(loaded)), vectors(osnet))
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "renamed.pt").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"half\.safetensors: not a readable safetensors file"):
        checkpoints.load(tmp_path / "half.safetensors")


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    for name in ("a.safetensors", "b.pth"):
        (tmp_path / name).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(InputError, match=rf"{name}: .* pip install safetensors$"):
            checkpoints.load(tmp_path / name)


def test_graphs_are_not_checkpoints(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), str(tmp_path / "traced.pt"))
    (tmp_path / "net.onnx").write_bytes(b"\x08")
    for name, kind in (("traced.pt", "a TorchScript"), ("net.onnx", "an ONNX")):
        with pytest.raises(InputError, match=f"{name}: is {kind} file, not a checkpoint; give the checkpoint"):
            checkpoints.load(tmp_path / name)


def test_long_reasons_are_cut_between_words():
    long = RuntimeError("word " * 100 + "\nsecond line")
    assert checkpoints.reason(long).endswith("word ...")
    assert checkpoints.reason(RuntimeError("pip install something")) == "pip install something"


# ------------------------------------------------------------------------------------------- what a file does not say


def test_what_is_assumed_is_said(tmp_path, osnet, resnet):
    weights, residual = osnet.state_dict(), resnet.state_dict()
    (line,) = load(tmp_path, weights).doubts()
    assert line.endswith(
        "theirs.pth does not say its input size; using 128x64; if it was trained at another size, "
        "give height and width (--height, --width)"
    )
    assert load(tmp_path, weights).with_input(height=64, width=32).doubts() == []
    assert "using 64x32" in load(tmp_path, weights).with_input(height=64).doubts()[0]
    _, stride = load(tmp_path, residual).doubts()
    assert "does not say the stride of its last stage; using 2; if it was trained with the other (1 or 2)" in stride
    loaded = load(tmp_path, residual).with_input(height=64, width=32, last_stride=1)
    assert loaded.doubts() == []
    assert from_checkpoint(loaded).layer4[0].conv1.stride == (1, 1)


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"height": 64, "width": 32}, (64, 32)),
        ({"img_size": [256, 128], "model_name": "osnet_x0_25"}, (256, 128)),
        ({"hyper_parameters": {"height": 96, "width": 48, "lr": 0.1}}, (96, 48)),
    ],
)
def test_sizes_that_files_tell(tmp_path, osnet, told, size):
    loaded = load(tmp_path, {"state_dict": osnet.state_dict()} | told)
    assert ((loaded.height, loaded.width), loaded.doubts()) == (size, [])


def test_the_published_network_has_a_size_of_its_own(tmp_path):
    weights = build_model("net", 5).state_dict()
    assert load(tmp_path, {"net_dict": weights, "acc": 1.0, "epoch": 2}).doubts() == []
    assert len(load(tmp_path, weights).doubts()) == 1


def test_impossible_inputs_are_refused(tmp_path, osnet, resnet):
    with pytest.raises(InputError, match="--height 0: must be from 1 to 4096"):
        load(tmp_path, osnet.state_dict()).with_input(height=0)
    with pytest.raises(InputError, match=r"--last-stride 2: .* is osnet_x0_25, whose stride is fixed"):
        load(tmp_path, osnet.state_dict()).with_input(last_stride=2)
    ours = {"net_dict": resnet.state_dict(), "arch": "resnet18", "model_options": {"last_stride": 2}}
    with pytest.raises(InputError, match=r"--last-stride 1: .* has last stride 2; leave the flag out"):
        load(tmp_path, ours).with_input(last_stride=1)


def test_a_training_that_starts_from_unknown_size_says_so(tmp_path, osnet):
    loaded = load(tmp_path, osnet.state_dict())
    net = build_model("osnet_x0_25", 7)
    assert "\nnote: " in checkpoints.load_pretrained(net, "osnet_x0_25", loaded)
    told = loaded.with_input(64, 32)
    assert "note" not in checkpoints.load_pretrained(net, "osnet_x0_25", told)
