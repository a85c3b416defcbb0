"""Pixels are decoded once, the same whatever keeps them."""

import os

import numpy as np
import pytest
import torch
from conftest import make_class_folders, paint

from appearance.cli import InputError
from appearance.data import layouts, pixels
from datasets import PersonImages


def images_of(root, height=32, width=16):
    data = layouts.find(root)
    return PersonImages(data.train, height, width, data.train_pids())


def test_ram_and_disk_hold_what_the_dataset_gives(class_folders, tmp_path):
    images = images_of(class_folders)
    expected = torch.stack([images[i][0] for i in range(len(images))])
    for cache in ("ram", "disk", "auto"):
        loaded = pixels.load(images, cache, workers=3, folder=tmp_path / "cache")
        assert loaded.dtype == torch.uint8
        assert loaded.shape == (16, 3, 32, 16)
        assert torch.equal(loaded, expected)
    assert images.targets == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_a_cache_file_is_found_again_and_renewed_when_an_image_changes(class_folders, tmp_path):
    folder = tmp_path / "cache"
    pixels.load(images_of(class_folders), "disk", 1, folder=folder)
    (file,) = folder.iterdir()
    before = file.stat().st_mtime_ns
    pixels.load(images_of(class_folders), "disk", 1, folder=folder)
    assert [(f, f.stat().st_mtime_ns) for f in folder.iterdir()] == [(file, before)]

    path = class_folders / "person1" / "c1_000.jpg"
    paint(path, (0, 0, 0))
    os.utime(path, ns=(1, 1))
    assert pixels.load(images_of(class_folders), "disk", 1, folder=folder)[0].float().mean() < 30
    assert len(list(folder.iterdir())) == 2
    pixels.load(images_of(class_folders, 64, 32), "disk", 1, folder=folder)
    assert len(list(folder.iterdir())) == 3


def test_several_processes_share_a_file(class_folders, tmp_path):
    pixels.load(images_of(class_folders), "auto", 1, shared=True, folder=tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("pixels-*.npy"))) == 1


def test_a_set_larger_than_memory_goes_to_disk(class_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "free_memory", lambda: 1000)
    pixels.load(images_of(class_folders), "auto", 1, folder=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_every_unreadable_image_is_named_and_no_cache_is_left(class_folders, tmp_path, cache):
    for name in ("person1/c1_000.jpg", "person3/c2_001.jpg"):
        (class_folders / name).write_bytes(b"not an image")
    with pytest.raises(InputError) as caught:
        pixels.load(images_of(class_folders), cache, 2, folder=tmp_path / "cache")
    assert "2 of 16" in str(caught.value)
    assert "person1/c1_000.jpg" in str(caught.value)
    assert "person3/c2_001.jpg" in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_broken_cache_file_is_made_anew(class_folders, tmp_path):
    images, folder = images_of(class_folders), tmp_path / "cache"
    whole = pixels.load(images, "disk", 1, folder=folder).clone()
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:500])
    assert torch.equal(pixels.load(images, "disk", 1, folder=folder), whole)
    np.save(file, np.zeros((2, 2)))
    assert torch.equal(pixels.load(images, "disk", 1, folder=folder), whole)


def test_a_cache_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    images = images_of(make_class_folders(tmp_path / "people", identities=2, images=2))
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(InputError, match=r"--cache disk: cannot write to .*taken .* APPEARANCE_DATA"):
        pixels.load(images, "disk", 1, folder=tmp_path / "taken")
