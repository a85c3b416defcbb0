"""Checkpoints of every kind load; what is not one is refused with a sentence."""

import os
import pickle
import zipfile

import pytest
import torch
import torchvision

from appearance.cli import InputError
from appearance.networks import checkpoints
from model import Net, build_model, from_checkpoint


class Bomb:
    """What a hostile pickle does when it is loaded: here it only leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def saved(path, content):
    torch.save(content, path)
    return path


def net_dict(num_classes=751, seed=0):
    torch.manual_seed(seed)
    return Net(num_classes).state_dict()


def same(net, weights):
    return all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


# ------------------------------------------------------------------------------------------------------- kinds of file


@pytest.mark.parametrize("num_classes", [751, 1261])
def test_the_published_kind(tmp_path, num_classes):
    weights = net_dict(num_classes)
    path = saved(tmp_path / "ckpt.t7", {"net_dict": weights, "acc": 93.5, "epoch": 39})
    loaded = checkpoints.load(path)
    assert (loaded.arch, loaded.num_classes, loaded.height, loaded.width) == ("net", num_classes, 128, 64)
    assert loaded.extra == {"acc": 93.5, "epoch": 39}
    assert loaded.knows_people
    net = from_checkpoint(loaded)
    assert not net.training
    assert net.reid
    assert same(net, weights)


def test_the_published_kind_in_torchs_old_file_format(tmp_path):
    path = tmp_path / "ckpt.t7"
    torch.save({"net_dict": net_dict(), "acc": 1.0, "epoch": 0}, path, _use_new_zipfile_serialization=False)
    assert checkpoints.load(path).num_classes == 751


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3, "note": "others"}])
def test_bare_and_wrapped_state_dicts_with_module_in_their_keys(tmp_path, wrap):
    weights = net_dict(5)
    path = saved(tmp_path / "a.pth", wrap({f"module.{key}": value for key, value in weights.items()}))
    assert same(from_checkpoint(checkpoints.load(path)), weights)


def test_ours_says_what_keys_cannot_tell(tmp_path):
    net = build_model("resnet18", 7, last_stride=1, pooling="gem")
    content = {"net_dict": net.state_dict(), "arch": "resnet18", "model_options": {"last_stride": 1, "pooling": "gem"}}
    loaded = checkpoints.load(saved(tmp_path / "best.pth", content | {"height": 256, "width": 96}))
    assert (loaded.height, loaded.width, loaded.num_classes) == (256, 96, 7)
    assert from_checkpoint(loaded).layer4[0].conv1.stride == (1, 1)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_neck_is_recognised_and_starts_fresh_from_weights_without_one(tmp_path, name):
    plain = saved(tmp_path / "plain.pth", build_model(name, 3).state_dict())
    net = build_model(name, 7, neck="bn")
    line = checkpoints.load_pretrained(net, name, checkpoints.load(plain))
    assert "neck." in line
    loaded = checkpoints.load(saved(tmp_path / "neck.pth", net.state_dict()))
    assert loaded.model_options == {"last_stride": 2, "pooling": "avg", "neck": "bn"}
    assert same(from_checkpoint(loaded), net.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnext50_32x4d"])
def test_torchvisions_files_are_recognised(tmp_path, name):
    weights = torchvision.models.get_model(name, weights=None).state_dict()
    loaded = checkpoints.load(saved(tmp_path / f"{name}.pth", weights))
    assert (loaded.arch, loaded.num_classes, loaded.knows_people) == (name, 1000, False)
    assert same(from_checkpoint(loaded), weights)


@pytest.mark.parametrize(("name", "features"), [("resnet18", 256), ("resnet50", 1024)])
def test_the_truncated_variant_is_recognised_from_its_keys(tmp_path, name, features):
    weights = build_model(name, 11, truncated=True).state_dict()
    loaded = checkpoints.load(saved(tmp_path / "old.pth", weights))
    assert loaded.model_options["truncated"] is True
    net = from_checkpoint(loaded)
    assert net.feature_dim == features
    assert net(torch.randn(2, 3, 64, 32)).shape == (2, features)
    other = build_model(name, 4, truncated=True)
    assert "start at random (fc.bias, fc.weight)" in checkpoints.load_pretrained(other, name, loaded)


def test_a_file_without_classifier_builds_an_extractor(tmp_path):
    weights = {key: value for key, value in net_dict().items() if not key.startswith("classifier")}
    loaded = checkpoints.load(saved(tmp_path / "a.pth", weights))
    assert loaded.num_classes is None
    assert from_checkpoint(loaded)(torch.randn(1, 3, 64, 32)).shape == (1, 512)


# -------------------------------------------------------------------------------------------------- starting from them


def test_loading_reports_what_was_loaded(tmp_path):
    weights = net_dict(751)
    path = saved(tmp_path / "ckpt.t7", {"net_dict": weights})
    net = Net(10)
    line = checkpoints.load_pretrained(net, "net", checkpoints.load(path))
    total = len(net.state_dict())
    assert line == (
        f"Loaded {total - 2} of {total} tensors from {path}; 2 start at random (classifier.4.bias, classifier.4.weight)"
        "; 2 tensors of the file are not used (classifier.4.bias, classifier.4.weight)"
    )
    assert torch.equal(net.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])
    assert checkpoints.load_pretrained(Net(751), "net", checkpoints.load(path)) == (
        f"Loaded {total} of {total} tensors from {path}"
    )


def test_another_architecture_is_an_error(tmp_path):
    loaded = checkpoints.load(saved(tmp_path / "r.pth", build_model("resnet18", 5).state_dict()))
    with pytest.raises(InputError, match="is resnet18, but --model is net"):
        checkpoints.load_pretrained(Net(5), "net", loaded)


def test_half_a_trunk_is_an_error(tmp_path):
    weights = net_dict()
    del weights["layer3.0.conv1.weight"]
    loaded = checkpoints.load(saved(tmp_path / "a.pth", weights))
    with pytest.raises(InputError, match=r"1 of \d+ trunk tensors .* first layer3\.0\.conv1\.weight"):
        checkpoints.load_pretrained(Net(5), "net", loaded)
    with pytest.raises(InputError, match=r"does not fit net: .*layer3\.0\.conv1\.weight"):
        from_checkpoint(loaded)


def test_deeper_resnets_do_not_pass_for_half_of_themselves(tmp_path):
    with torch.device("meta"):
        keys = torchvision.models.resnet101(weights=None).state_dict()
    with pytest.raises(InputError, match="not a supported network"):
        checkpoints.recognise(keys, "resnet101.pth")


def test_imagenet_without_a_network_names_file_and_place(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError) as caught:
        checkpoints.imagenet_checkpoint("resnet18")
    assert "resnet18-f37072fd.pth" in str(caught.value)
    assert str(tmp_path / "checkpoints") in str(caught.value)
    with pytest.raises(InputError, match="no ImageNet weights for --model net"):
        checkpoints.imagenet_checkpoint("net")


# ------------------------------------------------------------------------------------------------- files from strangers


@pytest.mark.parametrize("old_format", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, old_format):
    mark = tmp_path / "executed"
    path = tmp_path / "ckpt.t7"
    content = {"net_dict": net_dict(2), "acc": Bomb(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(InputError, match="not loaded"):
        checkpoints.load(path)
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(InputError):
        checkpoints.load(path)
    assert not mark.exists()


def one_wrong(key, value):
    return {**net_dict(2), key: value}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "contains a list, not a dict"),
        ({}, "not a supported network"),
        ({"net_dict": 5}, "its weights are a int"),
        ({"net_dict": {"conv.0.weight": torch.zeros(64, 3, 3, 3)}}, "not a supported network"),
        ({"weights": "text"}, "not a supported network"),
        (lambda: one_wrong("classifier.4.weight", torch.zeros(1, 256).expand(10**12, 256)), "not a plain tensor"),
        (lambda: one_wrong("classifier.4.weight", torch.zeros(10**6, 0)), "not a plain tensor"),
        (lambda: one_wrong("classifier.4.weight", torch.empty(10**9, 256, device="meta")), "not a plain tensor"),
        (lambda: one_wrong("conv.0.weight", torch.zeros(64, 3, 3, 3).to_sparse()), "not a plain tensor"),
        (lambda: one_wrong("conv.0.weight", torch.zeros(64, 3, 3, 3, dtype=torch.complex64)), "not a plain tensor"),
        (lambda: one_wrong("conv.0.bias", torch.full((64,), float("nan"))), "NaN"),
        (lambda: one_wrong("classifier.4.weight", torch.tensor(1.0)), "tensors of the network are missing"),
        (lambda: one_wrong("classifier.4.weight", torch.zeros(10**6, 1)), "has shape"),
        (lambda: one_wrong("layer1.0.conv1.weight", torch.zeros(64, 64, 5, 5)), "has shape"),
        (lambda: one_wrong("stranger.weight", torch.zeros(1)), "does not fit net"),
        (lambda: {"net_dict": net_dict(2), "height": 10**9}, "input size"),
        (lambda: {"net_dict": net_dict(2), "height": "tall"}, "input size"),
        (lambda: {"net_dict": net_dict(2), "arch": "net", "model_options": {"last_stride": 1}}, "last_stride"),
        (lambda: {"net_dict": net_dict(2), "arch": "net", "model_options": [1]}, "model_options"),
        (lambda: {"net_dict": net_dict(2), "arch": "resnet18", "model_options": {}}, "does not fit resnet18"),
    ],
    ids=range(20),
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, words):
    path = saved(tmp_path / "file.pth", content() if callable(content) else content)
    with pytest.raises(InputError, match=words) as caught:
        from_checkpoint(checkpoints.load(path))
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400


def scaled(weights, name, factor):
    return {key: value * factor if key.endswith(name) else value for key, value in weights.items()}


WITHOUT_VECTORS = {
    "negative variances": lambda weights: scaled(weights, "running_var", -1.0),
    "huge weights": lambda weights: scaled(weights, "conv1.weight", 1e38),
    "zeros": lambda weights: scaled(weights, "conv2.weight", 0.0) | scaled(weights, ("weight", "bias"), 0.0),
    "whole numbers": lambda weights: {key: value.long() for key, value in weights.items()},
}


@pytest.mark.parametrize("what", WITHOUT_VECTORS)
def test_weights_that_give_no_vectors_are_refused(tmp_path, what):
    """They are finite numbers of the right shapes, and would give NaN or zeros."""
    path = saved(tmp_path / "file.pth", {"net_dict": WITHOUT_VECTORS[what](net_dict(2))})
    words = "must be floating-point" if what == "whole numbers" else "zero, NaN or infinite vectors"
    with pytest.raises(InputError, match=words) as caught:
        from_checkpoint(checkpoints.load(path))
    assert str(caught.value).startswith(str(path))
    net = Net(2).train()
    with pytest.raises(
        InputError, match=r"zero, NaN or infinite vectors|shape or dtype"
    ):  # to start a training from, as well
        checkpoints.load_pretrained(net, "net", checkpoints.load(path))
    assert net.training


def test_a_size_too_small_for_a_network_is_a_sentence(tmp_path):
    """Instance norm needs more than one pixel."""
    net = build_model("resnet50_ibn", 2, last_stride=2)
    loaded = checkpoints.load(saved(tmp_path / "ibn.pth", net.state_dict()))
    with pytest.raises(InputError, match=r"ibn\.pth: does not run on images of 8x8 pixels"):
        from_checkpoint(loaded.with_input(8, 8))


def test_odd_extras_do_not_matter(tmp_path):
    content = {"net_dict": net_dict(2), "arch": ["net"], "epoch": torch.tensor([1, 2]), 7: 8}
    loaded = checkpoints.load(saved(tmp_path / "a.pth", content))
    assert loaded.arch == "net"
    assert "epoch" not in loaded.extra


def test_broken_files_are_named(tmp_path):
    whole = saved(tmp_path / "whole.pth", {"net_dict": net_dict(2)}).read_bytes()
    for name, content in [("empty", b""), ("text", b"<html>"), ("half", whole[: len(whole) // 2]), ("head", whole[:9])]:
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.pth"):
            checkpoints.load(path)
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoints.load(tmp_path / "none.pth")
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoints.load(tmp_path)


def test_a_file_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    plain = saved(tmp_path / "plain.pth", {"net_dict": {"conv.0.weight": torch.zeros(1_000_000)}})
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert packed.stat().st_size < plain.stat().st_size / 100
    with pytest.raises(InputError, match="compressed"):
        checkpoints.read(packed)


# -------------------------------------------------------------------------------------------------------------- saving


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    weights = net_dict(2)
    checkpoints.save(path, {"net_dict": weights, "epoch": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*unchanged"):
        checkpoints.save(path, {"net_dict": net_dict(2, seed=1), "epoch": 2})
    assert checkpoints.load(path).extra["epoch"] == 1
    assert same(from_checkpoint(checkpoints.load(path)), weights)
    assert os.listdir(tmp_path) == ["last.pth"]
