"""Pictures are files of the right kind and hold what they are given; whether they look right is for eyes."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from appearance.cli import InputError
from appearance.pictures import plots, tsne

HISTORY = [
    {"epoch": i + 1, "train_loss": 3 / (i + 1), "val_loss": 4 / (i + 1), "train_acc": i / 10, "lr": 0.1}
    for i in range(8)
]


@pytest.mark.parametrize(
    "history",
    [HISTORY, HISTORY[:1], [], [{"epoch": 1.0}], [{"epoch": 1, "train_loss": float("nan"), "rank1": None}]],
)
def test_training_curves_of_any_history(tmp_path, history):
    plots.training_curves(history, tmp_path / "new" / "curves.png")
    with Image.open(tmp_path / "new" / "curves.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).min() < 100  # something is drawn on it
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["curves.png"]  # no temporary file stays


def test_retrieval_gets_its_panel_only_when_measured(tmp_path):
    plots.training_curves(HISTORY, tmp_path / "a.png")
    plots.training_curves([*HISTORY, {"epoch": 9, "rank1": 0.5, "mAP": 0.3}], tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as two, Image.open(tmp_path / "b.png") as three:
        assert three.width == pytest.approx(1.5 * two.width, abs=2)


def test_cmc_names_every_run():
    runs = {f"run {i}": {"cmc": [0.5] * 50, "rank1": 0.5, "mAP": 0.25 + i / 100} for i in range(9)}
    axes = plots.cmc(runs).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[3] == "run 3   rank-1 50.0%, mAP 28.0%"
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 9  # no two runs look the same


def test_ranked_lists_frame_right_and_wrong_and_missing_images():
    image = Image.new("RGB", (32, 64), "blue")
    results = [{"image": image, "caption": "a", "correct": True}, {"image": None, "caption": "b", "correct": False}]
    figure = plots.ranked_lists([{"title": "t", "query": {"image": image, "caption": "query"}, "results": results}])
    axes = figure.axes[0]
    frames = [patch.get_edgecolor()[:3] for patch in axes.patches]
    assert len(frames) == 3
    assert frames[1][1] > frames[1][0]  # green
    assert frames[2][0] > frames[2][1]  # red
    words = {text.get_text() for text in axes.texts}
    assert {"t", "query", "✓ a", "✗ b", "not\nfound"} <= words


def test_dark_form_is_dark_and_the_light_one_light():
    light, dark = (
        np.asarray(Image.open(io.BytesIO(plots.render(plots.cmc({"a": run()}), dark=dark))).convert("L"))
        for dark in (False, True)
    )
    assert np.median(light) > 240
    assert np.median(dark) < 40
    assert dark.max() > 200  # its text


def run():
    return {"cmc": [0.5] * 50, "rank1": 0.5, "mAP": 0.25}


def test_save_refuses_what_is_no_picture(tmp_path):
    with pytest.raises(InputError, match=r"a picture's name ends in \.png"):
        plots.save(Figure(), tmp_path / "cmc.txt")
    assert list(tmp_path.iterdir()) == []


def test_tsne_keeps_people_apart():
    random = np.random.default_rng(0)
    labels = np.arange(90) % 6
    rows = random.normal(size=(6, 20))[labels] * 3 + random.normal(size=(90, 20))
    points = tsne.tsne(rows)
    assert points.shape == (90, 2)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(90, np.inf))
    assert (labels[distance.argmin(1)] == labels).mean() > 0.95
    assert np.array_equal(points, tsne.tsne(rows))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 10])
def test_tsne_of_few_or_equal_rows_is_finite(rows):
    assert np.isfinite(tsne.tsne(np.ones((rows, 5)))).all()
    assert tsne.tsne(np.eye(rows, 5)).shape == (rows, 2)
