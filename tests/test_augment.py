"""Batched augmentation equals torchvision's per-image transforms for the same random numbers."""

import pytest
import torch
import torchvision.transforms.functional as tv

from appearance.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augment, Numbers, normalize
from appearance.data.batches import generator_for

N, H, W = 12, 40, 20


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (N, 3, H, W), dtype=torch.uint8, generator=generator_for(0, 0))


def plain(count=N, padding=(0, 0)) -> Numbers:
    one = torch.ones(count)
    return Numbers(
        flip=torch.zeros(count, dtype=torch.bool),
        shift=torch.tensor([padding]).repeat(count, 1),
        brightness=one,
        contrast=one,
        saturation=one,
        erase=torch.zeros(count, 4, dtype=torch.int64),
    )


def test_normalisation_is_torchvisions(pixels):
    expected = torch.stack([tv.normalize(p.float() / 255, IMAGENET_MEAN, IMAGENET_STD) for p in pixels])
    assert normalize(pixels).dtype == torch.float32
    torch.testing.assert_close(normalize(pixels), expected, atol=1e-5, rtol=0)
    assert normalize(pixels).is_contiguous(memory_format=torch.channels_last)


def test_nothing_drawn_changes_nothing(pixels):
    augment = Augment(flip=0, pad=0, jitter=0, erase=0)
    numbers = augment.draw(N, H, W, generator_for(0, 1))
    assert torch.equal(augment.apply(pixels, numbers), normalize(pixels))


def one_by_one(images) -> torch.Tensor:
    """Normalised batch of single images (3, H, W), uint8 or float on 0..255."""
    return torch.cat([normalize(image[None]) for image in images])


def test_flip(pixels):
    numbers = plain()
    numbers.flip[::2] = True
    done = Augment(pad=0).apply(pixels, numbers)
    assert torch.equal(done, one_by_one(tv.hflip(p) if i % 2 == 0 else p for i, p in enumerate(pixels)))


def test_crop_from_the_padded_image_and_flip(pixels):
    augment = Augment(flip=0.5, pad=0.1)
    top, left = augment.padding(H, W)
    assert (top, left) == (4, 2)
    numbers = augment.draw(N, H, W, generator_for(0, 2))
    assert numbers.flip.any()
    assert not numbers.flip.all()
    expected = []
    for image, flip, (row, column) in zip(pixels, numbers.flip, numbers.shift.tolist(), strict=True):
        cropped = tv.crop(tv.pad(image, [left, top]), row, column, H, W)
        expected.append(tv.hflip(cropped) if flip else cropped)
    assert torch.equal(augment.apply(pixels, numbers), one_by_one(expected))


@pytest.mark.parametrize("strength", [0.2, 0.9])
def test_jitter(pixels, strength):
    augment = Augment(flip=0, pad=0, jitter=strength)
    numbers = augment.draw(N, H, W, generator_for(0, 3))
    expected = []
    for i, image in enumerate(pixels):
        image = tv.adjust_brightness(image.float() / 255, numbers.brightness[i].item())
        image = tv.adjust_contrast(image, numbers.contrast[i].item())
        image = tv.adjust_saturation(image, numbers.saturation[i].item())
        expected.append(tv.normalize(image, IMAGENET_MEAN, IMAGENET_STD))
    # torchvision's grey weights are 0.2989, 0.587, 0.114 and do not quite sum to 1
    torch.testing.assert_close(augment.apply(pixels, numbers), torch.stack(expected), atol=2e-3, rtol=0)


def test_jitter_factors_fill_their_range():
    numbers = Augment(jitter=0.2).draw(4000, H, W, generator_for(0, 4))
    for factors in (numbers.brightness, numbers.contrast, numbers.saturation):
        assert 0.8 <= factors.min() < 0.81
        assert 1.19 < factors.max() <= 1.2
        assert abs(factors.mean() - 1) < 0.01
    assert abs(torch.corrcoef(torch.stack([numbers.brightness, numbers.contrast]))[0, 1]) < 0.1


def test_erasing(pixels):
    augment = Augment(flip=0, pad=0, erase=0.5)
    numbers = augment.draw(N, H, W, generator_for(0, 5))
    done, whole = augment.apply(pixels, numbers), normalize(pixels)
    erased = 0
    for i, (top, left, height, width) in enumerate(numbers.erase.tolist()):
        expected = tv.erase(whole[i], top, left, height, width, torch.zeros(()), inplace=False) if height else whole[i]
        assert torch.equal(done[i], expected)
        erased += height > 0
    assert 0 < erased < N


def test_erased_boxes_lie_inside_and_have_the_asked_area():
    augment = Augment(erase=0.7, erase_area=(0.02, 0.3))
    boxes = augment.draw(5000, 128, 64, generator_for(0, 6)).erase
    top, left, height, width = boxes[boxes[:, 2] > 0].unbind(1)
    assert abs(len(top) / 5000 - 0.7) < 0.03
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height).max() == 128
    assert (left + width).max() == 64
    area = height * width / (128 * 64)
    assert area.min() > 0.015
    assert area.max() < 0.32
    assert abs(area.mean() - 0.16) < 0.01


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_that_share_a_batch_see_what_one_would(pixels, processes):
    augment = Augment(jitter=0.2, erase=0.5)
    numbers = augment.draw(N, H, W, generator_for(0, 7))
    share = N // processes
    parts = [slice(rank * share, (rank + 1) * share) for rank in range(processes)]
    together = torch.cat([augment.apply(pixels[part], numbers[part]) for part in parts])
    assert torch.equal(together, augment.apply(pixels, numbers))


def test_shapes_and_memory_format(pixels):
    augment = Augment(jitter=0.2, erase=0.5)
    done = augment.apply(pixels, augment.draw(N, H, W, generator_for(0, 8)))
    assert (done.shape, done.dtype) == ((N, 3, H, W), torch.float32)
    assert done.is_contiguous(memory_format=torch.channels_last)
    assert done.isfinite().all()
