"""The two ways to resize give the same pixels, and those that anti-aliased bilinear interpolation gives."""

import numpy as np
import pytest
import torch

from appearance.data.resize import resize, resize_all

CPU = torch.device("cpu")


def test_resize_is_bilinear_with_antialiasing():
    pixels = torch.tensor([[[0, 100], [200, 60]]], dtype=torch.uint8).expand(3, 2, 2)
    assert resize(pixels, 1, 1).flatten().tolist() == [90, 90, 90]
    assert resize(pixels, 2, 2) is pixels
    one = torch.full((3, 1, 1), 7, dtype=torch.uint8)
    assert torch.equal(resize(one, 16, 8), torch.full((3, 16, 8), 7, dtype=torch.uint8))


@pytest.mark.parametrize("size", [(128, 64), (256, 128), (32, 16), (48, 48)])
def test_all_at_once_is_bit_identical_to_one_by_one(size):
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 90), (700, 2), size, (size[0], 31), *rng.integers(1, 300, (20, 2))]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    single = [resize(torch.from_numpy(image).permute(2, 0, 1).contiguous(), *size) for image in images]
    assert torch.equal(resize_all(images, *size, CPU), torch.stack(single))


def test_all_at_once_takes_views_and_extreme_values():
    rng = np.random.default_rng(1)
    frame = np.where(rng.random((200, 300, 3)) < 0.5, 0, 255).astype(np.uint8)
    views = [frame[3:190, 10:75], frame[::-1, 100:107], frame[50:60]]
    single = [resize(torch.from_numpy(view.copy()).permute(2, 0, 1), 64, 32) for view in views]
    assert torch.equal(resize_all(views, 64, 32, CPU), torch.stack(single))
