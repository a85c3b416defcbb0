"""Copies and neighbouring frames are found, and told from two people who look alike; `check` names each fault."""

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, call_script, paint
from PIL import Image, ImageEnhance

from appearance.cli import InputError
from appearance.data import check, layouts, similarity
from appearance.data.duplicates import duplicate_problems
from appearance.data.layouts import Sample
from appearance.data.similarity import COPY, NEAR, Order, alike, thumbnail, thumbnail_vectors
from appearance.data.split import plan_split


def picture(who: int, turned: float = 0.0, size=(32, 64)) -> Image.Image:
    """A person of patches of colour; another one comes in as `turned` goes from 0 to 1."""
    patches = np.random.default_rng([1, who]).integers(0, 256, (8, 4, 3))
    other = np.random.default_rng([2, who]).integers(0, 256, (8, 4, 3))
    mixed = Image.fromarray(((1 - turned) * patches + turned * other).astype(np.uint8))
    return mixed.resize(size, Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def likeness(*images) -> float:
    one, other = thumbnail_vectors([thumbnail(image) for image in images])
    return float(one @ other)


def problems_of(root) -> list[str]:
    data = layouts.find(root)
    samples = data.train + data.query + data.gallery
    found, thumbnails = check.look(samples)
    found += duplicate_problems(data, {s.path: t for s, t in zip(samples, thumbnails, strict=True)})
    return [problem.text for problem in check.find_problems(data) + found]


# ---------------------------------------------------------------------------------------------------------- likeness


def test_what_saving_does_to_a_picture_leaves_it_a_copy(tmp_path):
    image = picture(1)
    for again in (
        Image.open(save(tmp_path / "a.jpg", image, quality=50)),
        image.resize((128, 256)),
        image.resize((16, 32)),
        ImageEnhance.Brightness(image).enhance(0.8),
        ImageEnhance.Contrast(image).enhance(0.7),
    ):
        assert likeness(image, again.convert("RGB")) >= COPY
    assert likeness(image, picture(2)) < 0.5
    assert likeness(image, picture(1, 0.15)) > NEAR
    assert likeness(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < 0.5


def test_a_flat_picture_is_like_nothing():
    black, wall = Image.new("RGB", (32, 64)), Image.new("RGB", (32, 64), (200, 10, 10))
    assert likeness(black, black) == likeness(wall, wall) == 0
    assert alike(thumbnail_vectors([thumbnail(black)] * 5 + [None]), lambda a, b: a >= 0).shape == (2, 0)


@pytest.mark.parametrize("least", [0.5, 0.9, COPY])
def test_alike_finds_what_comparing_all_finds(least, monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", 16)  # several blocks of this little
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20, similarity.HEIGHT * similarity.WIDTH * 3))
    noisy = [pictures[i % 20] + rng.normal(0, 4 * (i // 20 + 1), pictures.shape[1]) for i in range(100)]
    vectors = thumbnail_vectors([one.clip(0, 255).astype(np.uint8).tobytes() for one in noisy])
    odd = torch.arange(100) % 2
    products = vectors @ vectors.T
    wanted = (products >= least).triu(1) & (odd[:, None] == odd)
    found = alike(vectors, lambda a, b: odd[a] == odd[b], least)
    assert {*map(tuple, found.T.tolist())} == {*map(tuple, wanted.nonzero().tolist())}
    assert found.shape[1] > 10
    values = products[found[0], found[1]]
    assert torch.equal(values, values.sort(descending=True).values)


def test_no_images_are_compared():
    assert alike(thumbnail_vectors([]), lambda a, b: a >= 0).shape == (2, 0)
    assert Order([]).neighbours().shape == (2, 0)


def test_names_tell_neighbouring_frames():
    times = [
        Sample(f"{n}.jpg", n, camera, time=time) for n, (camera, time) in enumerate([(1, 100), (1, 104), (2, 101)])
    ]
    names = [Sample(f"p/{name}.jpg", pid) for pid, name in ((7, "a_008"), (7, "a_010"), (8, "a_009"), (7, "b_009"))]
    names += [Sample("p/a_020.jpg", 7), Sample("p/holiday.jpg", 7)]
    assert Order(times + names).neighbours().T.tolist() == [[0, 1], [3, 4]]
    assert sorted(Order(times).neighbours(within=3).T.tolist()) == []


# ------------------------------------------------------------------------------------------------------------- check


def sound(root):
    """Four people to train on and three to test with, in two cameras and at times far apart."""
    for pid in range(1, 8):
        for n in range(4):
            split = "train" if pid < 5 else ("query" if n < 2 else "gallery")
            save(root / split / f"{pid:04d}" / f"{pid:04d}_c{n % 2 + 1}_{1000 * n:06d}_00.jpg", picture(10 * pid + n))
    return root


def copy_to(source, target, quality=50):
    save(target, Image.open(source), quality=quality)


def test_a_sound_set_has_no_problem(tmp_path):
    assert problems_of(sound(tmp_path)) == []


def test_a_copy_under_two_identities(tmp_path):
    root = sound(tmp_path)
    copy_to(root / "train/0001/0001_c1_000000_00.jpg", root / "train/0002/0002_c2_009000_00.jpg")
    [text] = problems_of(root)
    assert text.startswith(
        "train: 1 image is under two identities: 0001 and 0002 "
        "(train/0001/0001_c1_000000_00.jpg = train/0002/0002_c2_009000_00.jpg); "
    )


def test_a_folder_copied_under_another_name(tmp_path):
    for who in ("s1", "s2", "s3"):
        for n in range(4):
            save(tmp_path / who / f"c{n % 2}_{n}.png", picture(10 * int(who[1]) + n))
            if who == "s3":
                save(tmp_path / "s3 copy" / f"c{n % 2}_{n}.png", picture(30 + n))
    text = next(text for text in problems_of(tmp_path) if "two identities" in text)
    assert text.startswith("train: 4 images are under two identities: s3 and s3 copy (")


def test_train_again_in_the_test(tmp_path):
    root = sound(tmp_path)
    copy_to(root / "train/0003/0003_c1_000000_00.jpg", root / "gallery/0006/0006_c2_005000_00.jpg")
    save(root / "train/0004/0004_c1_007001_00.jpg", picture(99))  # a frame of a person, and the next
    save(root / "query/0007/0007_c1_007003_00.jpg", picture(99, 0.1))
    [text] = problems_of(root)
    assert text.startswith("train and query/gallery: 2 identities in both, judged by image content: ")
    for words in ("0003 and 0006 (train/0003/", "0004 and 0007 (train/0004/0004_c1_007001_00.jpg = query/0007/"):
        assert words in text


def test_a_query_that_is_in_the_gallery(tmp_path):
    root = sound(tmp_path)
    copy_to(root / "query/0005/0005_c1_000000_00.jpg", root / "gallery/0005/0005_c1_000000_01.jpg")
    assert problems_of(root) == []  # of one camera: left out of the ranking
    copy_to(root / "query/0005/0005_c1_000000_00.jpg", root / "gallery/0005/again.jpg")
    [text] = [text for text in problems_of(root) if "no camera" not in text]
    assert text.startswith(
        "query and gallery: 1 of 6 query images has a copy or near-copy in the gallery (query/0005/0005_c1"
    )


def test_neighbouring_frames_of_a_track_in_query_and_gallery(tmp_path):
    for who in range(6):
        for n in range(8):
            split = "train" if who < 3 else "query" if n == 3 else "gallery"
            save(tmp_path / split / f"p{who}" / f"walk_{n:04d}.jpg", picture(who, n / 12))
    found = [text for text in problems_of(tmp_path) if "no camera" not in text]
    assert len(found) == 1
    assert found[0].startswith("query and gallery: 3 of 3 query images have a neighbouring frame")
    assert "query/p3/walk_0003.jpg = gallery/p3/walk_000" in found[0]


def test_one_identity_with_most_images(tmp_path):
    for who, images in ((1, 9), (2, 3), (3, 3)):
        for n in range(images):
            save(tmp_path / f"s{who}" / f"c{n % 2}_x.{n}.jpg", picture(20 * who + n))
    assert sum("s1 has 9 of 15 images" in text for text in problems_of(tmp_path)) == 1


def test_what_is_left_out(tmp_path):
    root = sound(tmp_path)
    for name in ("train/0001/a.gif", "train/0001/b.GIF", "query/0005/c.heic", "gallery/0005/d.avif"):
        (root / name).write_bytes(b"")
    save(root / "train" / "beside.jpg", picture(3))
    found = problems_of(root)
    assert len(found) == 4
    for words in (
        "2 .gif files not used (train/0001/a.gif, train/0001/b.GIF)",
        "1 .heic file not used (query/0005/c.heic)",
        "1 .avif file not used (gallery/0005/d.avif)",
        "1 image not used (train/beside.jpg): not in an identity folder",
    ):
        assert sum(words in text for text in found) == 1


def test_how_many_names_tell_a_camera(tmp_path):
    for who in range(3):
        for n in range(4):
            save(tmp_path / f"s{who}" / (f"cam{n}_x.jpg" if n < 2 else f"x{n}.jpg"), picture(10 * who + n))
    data = layouts.find(tmp_path)
    assert "(in 6 file names)" in check.summary(data)
    assert any(text.startswith("6 of 12 images have no camera in the file name") for text in problems_of(tmp_path))


def test_a_number_that_is_hardly_a_cameras(tmp_path):
    for who in range(3):
        for n in range(10):
            save(tmp_path / f"s{who}" / f"c{10 * who + n}.jpg", picture(10 * who + n))
    assert any(text.startswith("30 different cameras in the file names of 30 images") for text in problems_of(tmp_path))


def test_one_camera_is_usable(tmp_path):
    for split, first in (("train", 0), ("query", 3), ("gallery", 3)):
        for who in range(first, first + 3):
            for n in range(3):
                time = 1000 * n + 500 * (split == "query")
                save(tmp_path / split / str(who + 1) / f"c1_{time}.jpg", picture(90 * who + 9 * n + len(split)))
    result = call_script("datasets.py", "check", tmp_path, cwd=tmp_path)
    assert (result.code, result.stderr) == (0, "")
    assert "all images are from one camera" in result.stdout
    assert result.stdout.count("  warning  ") == 1


def test_a_folder_with_one_of_each_fault(tmp_path):
    """All are named in one pass, once, and nothing else is."""
    root = sound(tmp_path / "people")
    copy_to(root / "train/0001/0001_c1_000000_00.jpg", root / "train/0002/0002_c2_009000_00.jpg")
    copy_to(root / "train/0003/0003_c1_000000_00.jpg", root / "gallery/0006/0006_c2_005000_00.jpg")
    copy_to(root / "query/0005/0005_c1_000000_00.jpg", root / "gallery/0005/0005_c2_009000_01.jpg")
    for number, split in enumerate(("query", "gallery")):
        save(root / split / "0007" / f"walk_{number:03d}.jpg", picture(77, number / 10))
    for n in range(30):
        save(root / "train" / "0004" / f"0004_c1_{50_000 + 100 * n:06d}_00.jpg", picture(500 + n))
    save(root / "train" / "MOT16-09" / "img1" / "000001.jpg", picture(80))
    (root / "train" / "0001" / "a.gif").write_bytes(b"")
    (root / "train" / "0001" / "broken.jpg").write_bytes(b"")
    save(root / "query" / "beside.jpg", picture(81))
    paint(root / "train" / "0002" / "0002_c1_020000_00.jpg", size=(8, 9))
    result = call_script("datasets.py", "check", root, cwd=tmp_path)
    assert_one_line_error(result, "2 of 11 problems")
    lines = [line for line in result.stdout.splitlines() if line.startswith(("  ERROR", "  warning"))]
    expected = (
        "MOT16-09: is a video sequence",
        "1 .gif file not used",
        "1 image not used (query/beside.jpg)",
        "0004 has 34 of",
        "2 of 16 test images have no camera in the file name",
        "train/0001/broken.jpg: cannot be read",
        "8x9 pixels",
        "train: 1 image is under two identities: 0001 and 0002",
        "1 identity in both, judged by image content: 0003 and 0006",
        "1 of 7 query images has a copy or near-copy",
        "1 of 7 query images has a neighbouring frame",
    )
    assert len(lines) == len(expected)
    for words in expected:
        assert sum(words in line for line in lines) == 1, words


# ------------------------------------------------------------------------------------------------------------- split


def people(root, names) -> tuple[list[Sample], torch.Tensor]:
    """Samples and thumbnail_vectors of {identity: [(file name, picture), ...]}."""
    for who, images in names.items():
        for name, image in images:
            save(root / who / name, image, quality=95)
    data = layouts.find(root)
    return data.train, thumbnail_vectors(check.look(data.train)[1])


def test_split_keeps_the_moments_of_a_query_out_of_the_gallery(tmp_path):
    walks = {f"p{who}": [(f"walk_{n:04d}.jpg", picture(who, n / 30)) for n in range(30)] for who in range(6)}
    samples, vectors = people(tmp_path, walks)
    splits, lines = plan_split(samples, 0.5, 0, vectors)
    row = {sample: i for i, sample in enumerate(samples)}
    assert (len(splits["query"]), len(splits["train"])) == (3, 90)
    assert 30 < len(splits["gallery"]) < 80
    for query in splits["query"]:
        rows = [row[s] for s in splits["gallery"] if s.pid == query.pid]
        assert (vectors[rows] @ vectors[row[query]]).max() < NEAR
    left = 180 - sum(map(len, splits.values()))
    assert f"{left} images left out: same person and same moment as a query" in lines
    assert plan_split(samples, 0.5, 0)[0] != splits  # names alone do not tell


def test_split_never_parts_people_who_share_pictures(tmp_path):
    names = {f"p{who}": [(f"c{n}_x.jpg", picture(10 * who + n)) for n in range(2)] for who in range(8)}
    names["p7"][0] = ("c0_x.jpg", picture(60))  # p6's
    samples, vectors = people(tmp_path, names)
    for seed in range(5):
        splits, lines = plan_split(samples, 0.6, seed, vectors, {7: "p6", 8: "p7"})
        assert {7, 8} <= {s.pid for s in splits["train"]}
        assert "2 identities in train only, as they share pictures with others: p6, p7; run `check`" in lines


def test_split_of_one_camera_asks_at_other_times():
    samples = [Sample(f"{pid}/{n}.jpg", pid, 4, time=1000 * pid + 10 * n) for pid in range(1, 7) for n in range(10)]
    splits, lines = plan_split(samples, 0.5, 1)
    assert {s.time % 1000 for s in splits["query"]} == {0, 90}
    assert {s.time % 1000 for s in splits["gallery"]} == {30, 40, 50, 60}  # a second from both
    assert check.unmatched_queries(splits["query"], splits["gallery"]) == []
    assert any("from one camera" in line for line in lines)


def test_people_seen_for_a_moment_only_are_trained_on():
    samples = [Sample(f"{pid}/{n}.jpg", pid, 4, time=1000 * pid + n) for pid in range(1, 4) for n in range(10)]
    with pytest.raises(InputError, match="not neighbouring frames"):
        plan_split(samples, 0.5, 1)


@pytest.mark.parametrize(
    ("root", "out", "words"), [(".", "split", "lies inside"), (".", ".", "lies inside"), ("a", ".", "contains")]
)
def test_split_refuses_to_write_among_the_people(tmp_path, root, out, words):
    for who in range(4):
        save(tmp_path / "a" / f"p{who}" / "c1_1.jpg", picture(who))
    place = tmp_path if root == "a" else tmp_path / "a"
    result = call_script("datasets.py", "split", root, out, cwd=place)
    assert_one_line_error(result, words)
    assert not (tmp_path / "a" / "split").exists()
