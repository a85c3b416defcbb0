"""The ResNets are torchvision's where nothing is changed."""

import pytest
import torch
import torchvision

from appearance.networks import checkpoints
from appearance.networks.inference import fuse_for_inference
from appearance.networks.resnet import TRUNKS, GeM, InstanceBatchNorm
from model import build_model, from_checkpoint


def torchvision_net(name, seed=0):
    torch.manual_seed(seed)
    net = torchvision.models.get_model(name, weights=None)
    for key, tensor in net.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("name", sorted(set(TRUNKS) - {"resnet50_ibn"}))
@torch.inference_mode()
def test_same_keys_and_logits_as_torchvision(name):
    theirs = torchvision_net(name)
    ours = build_model(name, 1000, last_stride=2).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: every tensor has its place
    images = torch.randn(2, 3, 96, 48)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("name", sorted(TRUNKS))
@torch.inference_mode()
def test_last_stride_doubles_the_last_map_and_keeps_the_weights(name):
    maps = {}
    for stride in (1, 2):
        net = build_model(name, 5, last_stride=stride).eval()
        net.layer4.register_forward_hook(lambda m, i, out, stride=stride: maps.update({stride: tuple(out.shape)}))
        net(torch.randn(1, 3, 128, 64))
    channels = build_model(name, 5).feature_dim
    assert maps == {1: (1, channels, 8, 4), 2: (1, channels, 4, 2)}


@pytest.mark.parametrize(
    ("name", "whole", "truncated"),
    [("resnet18", 512, 256), ("resnet34", 512, 256), ("resnet50", 2048, 1024), ("resnext50_32x4d", 2048, 1024)],
)
@torch.inference_mode()
def test_feature_sizes_whole_and_truncated(name, whole, truncated):
    assert build_model(name, 5).feature_dim == whole
    net = build_model(name, 5, reid=True, truncated=True).eval()
    assert net.feature_dim == truncated
    assert tuple(net.fc.weight.shape) == (5, truncated)
    assert not any(key.startswith("layer4") for key in net.state_dict())
    vectors = net(torch.randn(2, 3, 64, 32))
    assert vectors.shape == (2, truncated)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_neck_normalises_without_a_shift(name):
    torch.manual_seed(0)
    net = build_model(name, 5, neck="bn").train()
    features = net.embed(torch.randn(8, 3, 64, 32))
    torch.testing.assert_close(features.mean(0), torch.zeros(net.feature_dim), atol=1e-4, rtol=0)
    moving = features.detach().var(0, unbiased=False) > 0.5  # channels that do not answer to noise stay near 0
    assert moving.float().mean() > 0.5
    net.classify(features).sum().backward()
    assert net.neck.weight.grad is not None
    assert net.neck.bias.grad is None
    assert torch.equal(net.neck.bias, torch.zeros(net.feature_dim))


@torch.inference_mode()
def test_truncated_is_torchvision_up_to_layer3():
    theirs = torchvision_net("resnet18")
    ours = build_model("resnet18", 5, truncated=True).eval()
    trunk = {k: v for k, v in theirs.state_dict().items() if not k.startswith(("layer4", "fc"))}
    missing, unexpected = ours.load_state_dict(trunk, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    images = torch.randn(2, 3, 64, 32)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    expected = theirs.layer3(theirs.layer2(theirs.layer1(x))).mean((2, 3))
    torch.testing.assert_close(ours.embed(images), expected)


@torch.inference_mode()
def test_instance_norm_has_the_names_of_the_public_files(tmp_path):
    plain, net = build_model("resnet50", 5), build_model("resnet50_ibn", 5).eval()
    changed = {key.split(".bn1.")[0] for key in set(net.state_dict()) - set(plain.state_dict())}
    assert changed == {f"layer{layer}.{block}" for layer, blocks in ((1, 3), (2, 4), (3, 6)) for block in range(blocks)}
    shapes = {key: tuple(value.shape) for key, value in net.layer2[1].bn1.state_dict().items()}
    halves = {f"{half}.{name}": (64,) for half in ("IN", "BN") for name in ("weight", "bias")}
    assert shapes == halves | {"BN.running_mean": (64,), "BN.running_var": (64,), "BN.num_batches_tracked": ()}

    torch.save(net.state_dict(), tmp_path / "ibn.pth")
    loaded = from_checkpoint(checkpoints.load(tmp_path / "ibn.pth"))
    images = torch.randn(2, 3, 64, 32)
    net = build_model("resnet50_ibn", 5, reid=True, last_stride=2).eval()  # as a file that does not say it is read
    net.load_state_dict(torch.load(tmp_path / "ibn.pth"))
    torch.testing.assert_close(fuse_for_inference(loaded)(images), net(images), atol=1e-5, rtol=1e-4)


def test_instance_norm_by_hand():
    x = torch.tensor([1.0, 3.0, 5.0, 5.0]).view(1, 2, 1, 2)
    norm = InstanceBatchNorm(2).eval()
    torch.testing.assert_close(norm(x)[0, :, 0], torch.tensor([[-1.0, 1.0], [5.0, 5.0]]), atol=1e-4, rtol=1e-4)


def test_gem_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    assert GeM(p=3.0)(x).item() == pytest.approx((100 / 4) ** (1 / 3))
    assert GeM(p=1.0)(x).item() == pytest.approx(2.5)
    assert GeM(p=200.0)(x / 4).item() == pytest.approx(1.0, abs=0.01)
    assert GeM()(torch.zeros(1, 2, 3, 3)).isfinite().all()
    pool = GeM()
    pool(x).sum().backward()
    assert pool.p.grad.isfinite()
