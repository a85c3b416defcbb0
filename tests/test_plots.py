"""Pictures are files of the right kind and hold what they are given; whether they look right is for eyes."""

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from appearance.cli import InputError
from appearance.pictures import plots, report

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


LONG = {
    name: {"cmc": [0.5] * 50, "rank1": 0.5, "mAP": 0.25}
    for name in ("osnet, forty epochs on two data sets, colour jitter", "_net", "cost $5 or $6", "李明")
}


def lies_within(figure) -> bool:
    """Whether axes, their titles and labels, and all legends lie inside the picture, and the axes fill much of it."""
    figure.draw_without_rendering()
    boxes = [legend.get_window_extent() for legend in figure.legends] + [axes.get_tightbbox() for axes in figure.axes]
    whole = figure.bbox
    inside = all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1 for box in boxes)
    return inside and figure.axes[0].get_window_extent().width > 0.4 * whole.width


@pytest.mark.parametrize("number", [1, 4, 14])
def test_long_and_odd_labels_fit_into_the_picture(number):
    runs = dict(list(LONG.items())[:number]) | {f"the_long_name_of_the_run_{i:030d}": run() for i in range(number - 4)}
    figure = plots.cmc(runs)
    assert lies_within(figure)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(labels) == len(runs)
    if number >= 4:
        names = [label.split("   ")[0] for label in labels[:4]]
        assert names == ["osnet, forty ep…s, colour jitter", " _net", r"cost \$5 or \$6", "run 4"]
        assert len(set(labels)) == len(labels)
    figure = plots.reappear({label: {"reappear": curve([1, 2, 5, 10])} for label in runs})
    assert lies_within(figure)


def curve(gaps):
    return {"gap": gaps[0], "curve": [{"gap": gap, "rank1": 0.5, "mAP": 0.25, "queries": 9} for gap in gaps]}


@pytest.mark.parametrize(
    ("gaps", "ticks"),
    [
        ([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"]),
        ([0, 1, 2], ["0", "1", "2"]),
        (
            [step * 10**power for power in range(7) for step in (1, 2, 5)],
            ["1", "10", "100", "1,000", "10,000", "100,000", "1,000,000"],
        ),
    ],
)
def test_gaps_are_plain_numbers(gaps, ticks):
    figure = plots.reappear({"a": {"reappear": curve(gaps)}})
    assert lies_within(figure)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ticks
    assert not axes.get_xticklabels(minor=True)
    assert len(set(axes.lines[0].get_xdata())) == len(gaps)


@pytest.mark.parametrize("cameras", [0, 1, 10, 25])
@pytest.mark.parametrize("length", [3, 30])
def test_the_map_has_room_for_its_names(length, cameras):
    names = {i: f"{i:0{length}d}   AP 100 %" for i in range(12)}
    shown = np.arange(60) % cameras * 1000 + 7 if cameras else np.full(60, -1)
    points = np.random.default_rng(0).normal(size=(60, 2))
    figure = plots.feature_map(points, [0.5, 0.25], np.arange(60) % 12, shown, names)
    assert lies_within(figure)
    legends = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    assert legends[0] == list(names.values())
    # as many markers as there are, or none: two cameras of one marker would be one
    assert len(legends) == (2 if 0 < cameras <= 10 else 1)
    assert cameras != 10 or len(legends[1]) == 10


def test_the_map_shows_people_from_the_easiest_to_the_hardest():
    people = 100
    labels = torch.arange(people).repeat_interleave(5)
    results = {
        "identity": torch.arange(people).repeat(2),
        "correct": torch.ones(2 * people),
        "ap": torch.cat([torch.arange(people) / 100, torch.arange(people) / 100]).double(),
    }
    found = report._easy_to_hard(labels, results)
    assert len(found) == 12
    assert list(found)[:: len(found) - 1] == [99, 0]
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert np.diff(list(found)).min() >= -9
    assert 50 not in report._easy_to_hard(labels[labels != 50], results | {"correct": results["identity"] != 50})
    few = report._easy_to_hard(labels[: 5 * 98], results)  # of the last two there are no images
    assert {98, 99}.isdisjoint(few)


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
    with pytest.raises(InputError, match=r"unknown image format; use a name that ends in \.png"):
        plots.save(Figure(), tmp_path / "cmc.txt")
    assert list(tmp_path.iterdir()) == []


def test_the_map_lies_along_the_directions_of_most_variance():
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(20, 20)))[0]
    rows = 5 + random.normal(size=(400, 20)) * np.array([6, 3, *[0.1] * 18]) @ axes.T
    points, shares = report.principal_components(rows.astype(np.float32))
    assert points.std(0) == pytest.approx([6, 3], rel=0.1)
    assert points.mean(0) == pytest.approx([0, 0], abs=1e-5)
    assert shares == pytest.approx([36 / 45.2, 9 / 45.2], abs=0.05)
    between = (np.linalg.norm(a[:, None] - a, axis=2) for a in (points, rows))
    assert np.subtract(*between) == pytest.approx(0, abs=1.0)  # what the other 18 directions add


@pytest.mark.parametrize("rows", [np.ones((3, 5)), np.eye(3, 5), np.eye(3, 1)])
def test_the_map_of_few_or_equal_rows_is_finite(rows):
    points, shares = report.principal_components(rows.astype(np.float32))
    assert (points.shape, shares.shape) == ((3, 2), (2,))
    assert np.isfinite(points).all()
    assert 0 <= shares.sum() <= 1 + 1e-9
