"""Any image becomes RGB; splits are seeded and whole; `check` and `split` as a user runs them."""

import os
import random

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, call_script, make_class_folders, make_market, paint
from PIL import Image

import datasets
from appearance.cli import InputError
from appearance.data import layouts
from appearance.data.check import unmatched_queries
from appearance.data.images import load_rgb
from appearance.data.layouts import Sample
from appearance.data.resize import resize
from appearance.data.split import plan_split
from datasets import PersonImages, split_validation

# ------------------------------------------------------------------------------------------------------------ images


def gradient(width=24, height=40) -> Image.Image:
    """Red grows to the right, green downwards, blue is 60."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 10, y * 6, np.full_like(x, 60)], 2).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_every_png_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "image.PNG"
    gradient().convert(mode).save(path)
    image = load_rgb(path)
    assert (image.mode, image.size) == ("RGB", (24, 40))
    expected = np.asarray(gradient().convert(mode).convert("RGB"), int)
    assert np.array_equal(np.asarray(image, int), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_jpeg_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "image.jpeg"
    gradient().convert(mode).save(path, quality=100)
    expected = np.asarray(gradient().convert(mode).convert("RGB"), int)
    assert np.abs(np.asarray(load_rgb(path), int) - expected).mean() < 3


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 24 * 40).reshape(40, 24).astype(np.uint16)
    for name in ("a.png", "b.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(np.asarray(load_rgb(tmp_path / name))[..., 0], values >> 8)


def test_exif_rotation_is_undone(tmp_path):
    path = tmp_path / "lying.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 270 degrees": the picture is stored lying on its side
    gradient().transpose(Image.Transpose.ROTATE_90).save(path, quality=100, exif=exif)
    image = load_rgb(path)
    assert image.size == (24, 40)
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() < 4


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_smaller_image(tmp_path, name, shrink):
    """A JPEG file by its decoder, others by averaging: the same picture, so many times smaller, rounded up."""
    kind = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    gradient(22, 37).save(tmp_path / name, **kind)
    image = load_rgb(tmp_path / name, shrink)
    assert image.size == (-(-22 // shrink), -(-37 // shrink))
    inner = np.s_[: 37 // shrink, : 22 // shrink]  # whole squares
    expected = np.asarray(gradient(22, 37).reduce(shrink), int)[inner]
    assert np.abs(np.asarray(image, int)[inner] - expected).mean() < 3
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient(22, 37).transpose(Image.Transpose.ROTATE_90).save(tmp_path / name, exif=exif, **kind)
    assert load_rgb(tmp_path / name, shrink).size == image.size


def test_an_animation_gives_its_first_picture(tmp_path):
    frames = [Image.new("RGB", (20, 30), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "walk.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert load_rgb(tmp_path / "walk.webp").getpixel((5, 5)) == (255, 0, 0)


def test_wrong_extension_does_not_matter(tmp_path):
    gradient().save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / "a.jpg")
    assert load_rgb(tmp_path / "a.jpg").size == (24, 40)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read as an image"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "cannot identify"),
        (lambda path: path.symlink_to("nowhere.jpg"), "broken link"),
        (lambda path: os.mkfifo(path), "not an ordinary file"),
        (lambda path: (paint(path, size=(64, 128)), path.write_bytes(path.read_bytes()[:-300])), "truncated"),
        (lambda path: Image.new("1", (9000, 9000)).save(path), "over the limit of 50,000,000"),
        (lambda path: Image.new("1", (20000, 20000)).save(path, "png"), "decompression bomb"),
    ],
    ids=["empty", "html", "link", "pipe", "truncated", "large", "bomb"],
)
def test_an_unreadable_image_is_named(tmp_path, make, words):
    path = tmp_path / "bad.jpg"
    make(path)
    with pytest.raises(InputError, match=words) as caught:
        load_rgb(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_items_are_resized_pixels_and_labels(class_folders):
    data = layouts.find(class_folders)
    images = PersonImages(data.train, 64, 24, data.train_pids()[1:])
    pixels, label = images[5]
    assert (pixels.dtype, pixels.shape, label) == (torch.uint8, (3, 64, 24), 0)
    assert images[0][1] == -1  # not one of the identities
    assert torch.equal(
        pixels, resize(torch.from_numpy(np.array(load_rgb(data.train[5].path))).permute(2, 0, 1), 64, 24)
    )


# ------------------------------------------------------------------------------------------------------------ splits


def samples(counts, cameras=2):
    return [
        Sample(f"{pid}/c{number % cameras}_{number}.jpg", pid, number % cameras)
        for pid, count in counts.items()
        for number in range(count)
    ]


def test_validation_holds_out_a_share_of_each_identity():
    everything = samples({1: 10, 2: 5, 3: 1, 4: 2})
    train, held_out = split_validation(everything, 0.2, seed=3)
    assert sorted(train + held_out) == sorted(everything)
    assert not set(train) & set(held_out)
    assert {pid: sum(s.pid == pid for s in held_out) for pid in (1, 2, 3, 4)} == {1: 2, 2: 1, 3: 0, 4: 0}
    assert split_validation(everything, 0, seed=3)[1] == []
    assert {s.pid for s in split_validation(everything, 1, seed=3)[0]} == {1, 2, 3, 4}


def test_validation_depends_on_the_seed_and_not_on_the_listing():
    everything = samples(dict.fromkeys(range(1, 9), 10))
    shuffled = random.Random(1).sample(everything, len(everything))
    first, second = (set(split_validation(listing, 0.2, seed=0)[1]) for listing in (everything, shuffled))
    assert first == second
    assert set(split_validation(everything, 0.2, seed=1)[1]) != first


def test_plan_split_is_identity_disjoint_and_every_query_has_a_match():
    everything = samples(dict.fromkeys(range(1, 21), 6), cameras=3)
    plan = plan_split(everything, 0.3, seed=5).splits
    assert sorted([s for part in plan.values() for s in part]) == sorted(everything)
    assert len({s.pid for s in plan["query"]}) == 6
    assert not {s.pid for s in plan["train"]} & {s.pid for s in plan["query"] + plan["gallery"]}
    assert len(plan["query"]) == 6 * 3
    assert unmatched_queries(plan["query"], plan["gallery"]) == []
    shuffled = random.Random(2).sample(everything, len(everything))
    again = plan_split(shuffled, 0.3, seed=5).splits
    assert {split: set(part) for split, part in again.items()} == {split: set(part) for split, part in plan.items()}
    assert {s.pid for s in plan_split(everything, 0.3, seed=6).splits["query"]} != {s.pid for s in plan["query"]}


def test_unmatched_queries():
    gallery = [Sample("a", 1, 1), Sample("b", 2, 1), Sample("c", 2, 2), Sample("d", 0, 3)]
    query = [Sample("q1", 1, 1), Sample("q2", 2, 1), Sample("q3", 3, 1), Sample("q4", 1, -1), Sample("q5", -1, 1)]
    assert [s.path for s in unmatched_queries(query, gallery)] == ["q1", "q3", "q5"]


# ----------------------------------------------------------------------------------------------- check, as a user runs


def test_check_of_a_sound_dataset(market, tmp_path):
    result = call_script("datasets.py", "check", market, cwd=tmp_path)
    assert (result.code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["train", "4", "16", "2"] in lines
    assert ["query", "3", "6", "2"] in lines
    assert any("1 distractors, 1 junk" in line for line in result.stdout.splitlines())


def test_check_lists_everything_in_one_pass(tmp_path):
    root = make_market(tmp_path / "market")
    train = root / "bounding_box_train"
    (train / "0001_c1s1_000777_00.jpg").write_bytes(b"")
    paint(train / "0001_c1s1_000778_00.jpg", size=(8, 8))
    (train / "0001_c1s1_000779_00.jpg").symlink_to("gone.jpg")
    paint(train / "0005_c1s1_000001_00.jpg", seed=1)
    paint(root / "query" / "0099_c1s1_000001_00.jpg", seed=2)
    result = call_script("datasets.py", "check", root, cwd=tmp_path)
    assert_one_line_error(result, root, "2 of 6 problems")
    for words in (
        "000777_00.jpg: cannot be read",
        "8x8 pixels",
        "broken link",
        "1 identity in both",
        "1 of 7 query",
    ):
        assert words in result.stdout


def test_names_with_line_breaks_and_bad_bytes_stay_on_one_line(tmp_path):
    root = make_class_folders(tmp_path / "people", identities=2)
    (root / "person1" / "two\nlines.jpg").write_bytes(b"")
    with open(os.fsencode(root / "person1") + b"/bad\xff.jpg", "wb"):
        pass
    result = call_script("datasets.py", "check", root, cwd=tmp_path)
    assert_one_line_error(result, "2 of")
    assert "two\\nlines.jpg: cannot" in result.stdout
    assert "bad\\udcff.jpg: cannot" in result.stdout


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda root: make_class_folders(root, identities=1), "only one identity"),
        (lambda root: [make_class_folders(root / s) for s in ("train", "query")], "gallery: no images"),
    ],
)
def test_check_fails_where_training_or_evaluation_cannot_work(tmp_path, prepare, words):
    prepare(tmp_path / "root")
    result = call_script("datasets.py", "check", tmp_path / "root", cwd=tmp_path)
    assert_one_line_error(result, "are errors; fix them")
    assert words in result.stdout


def problems_of(root):
    return [problem.text for problem in datasets.find_problems(layouts.find(root))]


def test_warnings_that_do_not_stop(class_folders):
    (class_folders / "empty").mkdir()
    paint(class_folders / "alone" / "c1_a.jpg")
    found = " ".join(problems_of(class_folders))
    assert "empty: this identity folder has no images" in found
    assert "1 identity with a single image (alone)" in found
    assert "no query/ and gallery/" in found


# ----------------------------------------------------------------------------------------------- split, as a user runs


@pytest.mark.parametrize("flags", [[], ["--copy"]])
def test_split_gives_a_dataset_that_checks(tmp_path, flags):
    root = make_class_folders(tmp_path / "people", identities=6, images=6)
    out = tmp_path / "out"
    result = call_script("datasets.py", "split", root, out, "--test-ratio", "0.34", *flags, cwd=tmp_path)
    assert (result.code, result.stderr) == (0, "")
    data = layouts.find(out)
    assert (len(data.train_pids()), len(data.query), len(data.gallery)) == (4, 4, 8)
    assert datasets.find_problems(data) == []
    names = sorted(path.relative_to(out).parts[1:] for path in out.rglob("*.jpg"))
    assert names == sorted(path.relative_to(root).parts for path in root.rglob("*.jpg"))
    assert all(path.is_symlink() != bool(flags) for path in out.rglob("*.jpg"))
    again = call_script("datasets.py", "split", root, out, cwd=tmp_path)
    assert_one_line_error(again, out, "not an empty folder")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["split", "people", "out", "--test-ratio", "nan"], "--test-ratio"),
        (["split", "few", "out"], "at least 3 identities"),
        (["split", "market", "out"], "is already split"),
        (["split", "people", "file"], "not an empty folder"),
        (["split", "nowhere", "out"], "no such folder"),
        (["check", "nowhere"], "no such folder"),
        (["check"], "required: root"),
        ([], "required: check|split"),
    ],
)
def test_errors_of_the_command_line(tmp_path, arguments, words):
    make_class_folders(tmp_path / "people")
    make_class_folders(tmp_path / "few", identities=2)
    make_market(tmp_path / "market")
    (tmp_path / "file").write_text("")
    assert_one_line_error(call_script("datasets.py", *arguments, cwd=tmp_path), words)
    assert sorted(os.listdir(tmp_path)) == ["few", "file", "market", "people"]
