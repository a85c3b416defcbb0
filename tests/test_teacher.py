"""A teacher: what its student is measured against, and a run that has one."""

import pytest
import torch
import torch.nn.functional as F
from networks import write_checkpoint
from recipes import recipe_of
from test_train import SMALL, run, same

from appearance.cli import InputError
from appearance.drawn import sample
from appearance.networks import checkpoints
from appearance.networks.inference import unit_rows
from appearance.training.losses import same_classes, same_neighbours
from appearance.training.teacher import Teacher
from model import build_model, from_checkpoint
from train import ReIDLoss

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """8 identities to train on."""
    return sample.ensure(tmp_path_factory.mktemp("data") / "sample", identities=12, workers=1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_neighbours_by_the_loop_over_images():
    torch.manual_seed(0)
    features, vectors = torch.randn(5, 4, requires_grad=True), unit_rows(torch.randn(5, 7))
    expected = 0.0
    for i in range(5):
        others = [j for j in range(5) if j != i]
        own = torch.stack([F.cosine_similarity(features[i], features[j], dim=0) for j in others])
        wanted = torch.stack([vectors[i] @ vectors[j] for j in others])
        p, q = (wanted / 0.1).softmax(0), (own / 0.1).softmax(0)
        expected = expected + (p * (p / q).log()).sum() / 5
    found = same_neighbours(features, vectors, torch.arange(5))
    torch.testing.assert_close(found, expected)
    found.backward()
    assert features.grad.isfinite().all()
    assert same_neighbours(3 * vectors, vectors, torch.arange(5)).abs() < 1e-6  # lengths do not matter


def test_classes_by_hand():
    wanted, own = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = torch.tensor([2.0, 0.0]).softmax(0)
    assert same_classes(own, wanted).item() == pytest.approx(4 * float((p * (p / 0.5).log()).sum()), rel=1e-5)
    assert same_classes(wanted + 5, wanted).item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_sees_its_own_size_and_knows_whether_the_classes_are_its_own(tmp_path):
    path = write_checkpoint(tmp_path / "best.pth")  # Net at 64x32, 7 classes
    names = [str(number) for number in range(7)]
    checkpoints.save(path, checkpoints.read(path) | {"class_names": names})
    net = from_checkpoint(checkpoints.load(path))
    images = torch.randn(3, 3, 32, 16)
    large = F.interpolate(images, (64, 32), mode="bilinear", antialias=True)

    vectors, classes = Teacher(path, from_checkpoint, names, CPU)(images)
    torch.testing.assert_close(vectors, net(large), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(classes, net.classify(net.embed(large)), atol=1e-4, rtol=1e-4)
    assert not vectors.requires_grad
    teacher = Teacher(path, from_checkpoint, names[::-1], CPU)
    assert teacher(images)[1] is None
    assert teacher.description == f"Teacher {path}: net, 64x32, vectors (it was trained on other identities)"


def test_a_student_comes_nearer_to_its_teacher(tmp_path):
    path = write_checkpoint(tmp_path / "best.pth", "resnet18", height=32, width=16)
    checkpoints.save(path, checkpoints.read(path) | {"class_names": list("abcdefg")})
    teacher = Teacher(path, from_checkpoint, list("abcdefg"), CPU)
    images, labels = torch.randn(14, 3, 32, 16), torch.arange(14) % 7
    recipe = recipe_of("--classifier-weight", 0, "--metric-loss", "none")
    model = ReIDLoss(build_model("osnet_x0_25", 7), 7, recipe, teacher)
    assert not any("teacher" in name for name in model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss, _ = model(images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_learns_from_its_teacher_and_resumes_with_it(data, here, capsys):
    write_checkpoint(here / "teacher.pth", "resnet18", height=32, width=16)
    flags = ["--data-dir", data, "--epochs", 2, "--eval-interval", 9, *SMALL]
    run(*flags, "--output", "alone")
    run(*flags, "--output", "whole", "--teacher", "teacher.pth")
    run(*flags, "--output", "parts", "--teacher", "teacher.pth", "--epochs", 1)
    with pytest.raises(InputError, match="--teacher-weight"):
        run("--resume", "--output", "parts", "--epochs", 2, "--teacher-weight", 3)
    run("--resume", "--output", "parts", "--epochs", 2)
    told = "Teacher teacher.pth: resnet18, 32x16, vectors (it was trained on other identities)"
    assert capsys.readouterr().out.count(told) == 3
    alone, whole, parts = (checkpoints.load(f"{name}/last.pth") for name in ("alone", "whole", "parts"))
    first = [run.extra["history"][0]["train_loss"] for run in (alone, whole, parts)]
    assert first[1] > first[0] + 0.01  # the teacher's part
    assert whole.extra["args"]["teacher"] == parts.extra["args"]["teacher"] == "teacher.pth"
    assert not same(whole.net_dict, alone.net_dict)


def test_a_teacher_that_is_not_there(data, here):
    with pytest.raises(InputError, match=r"--teacher none\.pth: no such file; give the checkpoint"):
        run("--data-dir", data, "--epochs", 1, "--teacher", "none.pth", *SMALL)


def test_a_teacher_of_longer_vectors(tmp_path):
    features, vectors = build_model("osnet_x0_25", 3).embed(torch.randn(4, 3, 32, 16)), unit_rows(torch.randn(4, 2048))
    assert same_neighbours(features, vectors, torch.arange(4)).isfinite()
