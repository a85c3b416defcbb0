"""`Net` is the network of the published `ckpt.t7`: names, shapes, vectors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from appearance.networks.inference import fuse_for_inference, unit_rows
from model import ARCHITECTURES, Net, build_model


def published_shapes(num_classes: int = 751) -> dict[str, tuple[int, ...]]:
    """Every tensor of the published `ckpt.t7`, written out."""

    def norm(name, channels):
        return {
            f"{name}.weight": (channels,),
            f"{name}.bias": (channels,),
            f"{name}.running_mean": (channels,),
            f"{name}.running_var": (channels,),
            f"{name}.num_batches_tracked": (),
        }

    shapes = {"conv.0.weight": (64, 3, 3, 3), "conv.0.bias": (64,), **norm("conv.1", 64)}
    for stage, (before, after) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], start=1):
        for block, channels in enumerate([before, after]):
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (after, channels, 3, 3), **norm(f"{name}.bn1", after)}
            shapes |= {f"{name}.conv2.weight": (after, after, 3, 3), **norm(f"{name}.bn2", after)}
            if channels != after:
                shapes |= {
                    f"{name}.downsample.0.weight": (after, channels, 1, 1),
                    **norm(f"{name}.downsample.1", after),
                }
    shapes |= {"classifier.0.weight": (256, 512), "classifier.0.bias": (256,), **norm("classifier.1", 256)}
    return shapes | {"classifier.4.weight": (num_classes, 256), "classifier.4.bias": (num_classes,)}


class PublishedBlock(nn.Module):
    def __init__(self, c_in, c_out, halve):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=2 if halve else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = None
        if halve:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=2, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class PublishedNet(nn.Module):
    """The published architecture, written anew with nothing of ours: fixed 8x4 pooling, vectors divided by length."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [(64, 64), (64, 128), (128, 256), (256, 512)]
        for stage, (c_in, c_out) in enumerate(widths, start=1):
            blocks = nn.Sequential(PublishedBlock(c_in, c_out, stage > 1), PublishedBlock(c_out, c_out, False))
            setattr(self, f"layer{stage}", blocks)
        self.avgpool = nn.AvgPool2d((8, 4), 1)
        self.classifier = nn.Sequential(
            nn.Linear(512, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(), nn.Linear(256, num_classes)
        )

    def forward(self, x, reid):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv(x)))))
        x = self.avgpool(x).flatten(1)
        return x / x.norm(p=2, dim=1, keepdim=True) if reid else self.classifier(x)


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Running statistics and scales as after training, so that none is 0 or 1 by chance of initialisation."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return net.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 128, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return randomised(Net(num_classes=751, reid=True))


def test_names_and_shapes_are_the_published_ones():
    assert {name: tuple(tensor.shape) for name, tensor in Net(751).state_dict().items()} == published_shapes(751)


@torch.inference_mode()
def test_the_published_architecture_gives_the_same_vectors(net, images):
    published = PublishedNet(751).eval()
    published.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(images), published(images, reid=True), atol=1e-5, rtol=0)
    net.reid = False
    torch.testing.assert_close(net(images), published(images, reid=False), atol=1e-4, rtol=1e-4)
    net.reid = True


@torch.inference_mode()
def test_shapes_of_every_stage(net, images):
    seen = {}
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: tuple(out.shape[1:])}))
        for name, module in net.named_children()
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    assert seen == {
        "conv": (64, 64, 32),
        "layer1": (64, 64, 32),
        "layer2": (128, 32, 16),
        "layer3": (256, 16, 8),
        "layer4": (512, 8, 4),
        "avgpool": (512, 1, 1),
    }


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 32), (256, 128), (48, 48), (16, 16), (100, 37)])
def test_any_input_size(net, size):
    vectors = net(torch.randn(2, 3, *size))
    assert vectors.shape == (2, 512)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_rows_are_unit_and_a_zero_row_stays_finite():
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]).half())
    assert rows.dtype == torch.float32
    assert torch.equal(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@torch.inference_mode()
def test_a_network_of_zeros_gives_finite_vectors(images):
    net = Net(10, reid=True).eval()
    for parameter in net.parameters():
        parameter.zero_()
    assert torch.equal(net(images), torch.zeros(4, 512))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@torch.inference_mode()
def test_every_architecture_answers_the_three_calls_and_fuses(name):
    torch.manual_seed(0)
    net = randomised(build_model(name, 10, reid=True))
    images = torch.randn(2, 3, 64, 32)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    embedded = net.embed(images)
    assert embedded.shape == (2, net.feature_dim)
    assert net.classify(embedded).shape == (2, 10)
    torch.testing.assert_close(net(images), unit_rows(embedded))

    fused = fuse_for_inference(net)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert left == (3 + 4 + 6 if name == "resnet50_ibn" else 0)  # halves of a layer stay as they are
    scale = embedded.abs().max()
    assert (fused.embed(images) - embedded).abs().max() < 1e-4 * scale
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_unknown_names_and_options():
    with pytest.raises(KeyError):
        build_model("resnet1")
    with pytest.raises((TypeError, ValueError), match="last_stride"):
        build_model("net", last_stride=1)
