"""Orders are seeded and whole; processes share a batch without overlap."""

from collections import Counter

import pytest
import torch

from appearance.cli import InputError
from appearance.data import layouts, pixels
from appearance.data.batches import Feed, balanced_order, generator_for, shuffled_order
from appearance.distributed import World
from datasets import PersonImages

CPU = torch.device("cpu")


def test_generators_differ_by_each_number_and_repeat():
    drawn = {
        key: torch.rand(1, generator=generator_for(*key)).item()
        for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    }
    assert len(set(drawn.values())) == 5
    assert torch.rand(1, generator=generator_for(0, 1, 1)).item() == drawn[0, 1, 1]


def test_shuffled_order_takes_each_image_at_most_once():
    order = shuffled_order(103, 10, seed=1, epoch=4)
    assert order.shape == (10, 10)
    assert len(set(order.flatten().tolist())) == 100
    assert torch.equal(order, shuffled_order(103, 10, seed=1, epoch=4))
    assert not torch.equal(order, shuffled_order(103, 10, seed=1, epoch=5))
    assert not torch.equal(order, shuffled_order(103, 10, seed=2, epoch=4))


def test_a_batch_larger_than_the_set_is_the_set():
    assert sorted(shuffled_order(5, 64, 0, 0).flatten().tolist()) == [0, 1, 2, 3, 4]


def test_balanced_batches_hold_k_images_of_p_identities():
    labels = torch.arange(12).repeat_interleave(torch.tensor([3, 4, 5, 8, 12, 4, 4, 4, 4, 1, 4, 4]))
    order = balanced_order(labels, 16, 4, seed=0, epoch=0)
    for row in order:
        counts = Counter(labels[row].tolist())
        assert len(counts) == 4
        assert set(counts.values()) == {4}
    seen = Counter(order.flatten().tolist())
    large = [index for index in seen if labels[index] == 4]
    assert len(seen) == len(labels)
    assert all(seen[index] == 1 for index in large)  # 12 images are three whole groups: nothing is repeated
    assert torch.equal(order, balanced_order(labels, 16, 4, seed=0, epoch=0))
    assert not torch.equal(order, balanced_order(labels, 16, 4, seed=0, epoch=1))


# images of each identity -> steps, images a batch, and most times that one image comes, at 128 images and K = 4
DISTRIBUTIONS = {
    "Market-like": ([17] * 251, (39, 128, 2)),
    "31 of 100, 1 of 1": ([100] * 31 + [1], (24, 128, 4)),
    "31 of 100, 9 of 2": ([100] * 31 + [2] * 9, (24, 128, 2)),
    "19 of 50, 1 of 3": ([50] * 19 + [3], (8, 124, 2)),
    "10 of 5 to 200": (torch.linspace(5, 200, 10).int().tolist(), (8, 125, 2)),
    "50 of 5 to 200": (torch.linspace(5, 200, 50).int().tolist(), (39, 128, 2)),
    "Zipf": ([1000 // rank for rank in range(1, 101)], (41, 128, 2)),
    "2 of 100": ([100] * 2, (2, 100, 1)),
    "1,000 and 2": ([1000, 2], (8, 128, 18)),  # the two are in each batch: else it would have no negatives
    "3,000 of 2": ([2] * 3000, (93, 128, 2)),
    "40 faces": ([9] * 40, (4, 120, 2)),
    "1,000 of 1, 10 of 100": ([1] * 1000 + [100] * 10, (39, 128, 4)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_balanced_epochs_show_the_images_of_any_distribution(name):
    images, (steps, batch_size, most) = DISTRIBUTIONS[name]
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
    labels = labels[torch.randperm(len(labels), generator=generator_for(0, 0))]
    for epoch in range(3):
        order = balanced_order(labels, 128, 4, seed=0, epoch=epoch)
        assert order.shape == (steps, batch_size)
        seen = Counter(order.flatten().tolist())
        assert len(seen) >= 0.95 * len(labels)
        assert max(seen.values()) == most
        for row in order:
            people = Counter(labels[row].tolist())
            assert len(people) >= 2
            assert min(people.values()) >= 4


def test_few_people_fill_the_batch_and_each_of_them_equally():
    labels = torch.arange(14).repeat_interleave(36)
    order = balanced_order(labels, 128, 4, seed=0, epoch=0)
    assert order.shape == (4, 126)
    for row in order:
        assert Counter(labels[row].tolist()) == dict.fromkeys(range(14), 9)
    assert sorted(order.flatten().tolist()) == list(range(14 * 36))


def test_the_rich_are_spread_evenly_over_an_epoch():
    labels = torch.arange(9).repeat_interleave(torch.tensor([200] + [20] * 8))
    order = balanced_order(labels, 32, 4, seed=0, epoch=0)
    shares = [int((labels[row] == 0).sum()) for row in order]
    assert set(shares) <= {16, 20}  # of 32
    assert sum(shares) >= 190


@pytest.mark.parametrize("images", [[1], [7], [1, 1], [2, 9], [4] * 13, [3, 1, 1], [1] * 5])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_the_smallest_sets_have_an_order(images, batch_size):
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
    order = balanced_order(labels, batch_size, 2, seed=0, epoch=0)
    assert set(order.flatten().tolist()) == set(range(len(labels)))
    assert all(len(labels[row].unique()) >= min(2, len(images)) for row in order)


def feed_of(root, rank, size, cached):
    data = layouts.find(root)
    images = PersonImages(data.train, 32, 16, data.train_pids())
    stored = pixels.load(images, "ram", 1) if cached else None
    return Feed(images, stored, World(CPU, rank, size))


@pytest.mark.parametrize("cached", [True, False])
def test_processes_take_their_parts_of_a_batch(class_folders, cached):
    order = shuffled_order(16, 5, seed=0, epoch=0)
    alone = list(feed_of(class_folders, 0, 1, cached)(order))
    parts = [list(feed_of(class_folders, rank, 2, cached)(order)) for rank in (0, 1)]
    assert len(alone) == 3
    for step, (images, labels) in enumerate(alone):
        shared = torch.cat([parts[0][step][0], parts[1][step][0]])
        assert images.dtype == torch.uint8
        assert torch.equal(shared, images[:4])  # of five images two go to each; the fifth waits
        assert torch.equal(torch.cat([parts[0][step][1], parts[1][step][1]]), labels[:4])


@pytest.mark.parametrize("workers", [0, 1])
def test_cached_and_fresh_pixels_are_the_same_epoch_after_epoch(class_folders, workers):
    data = layouts.find(class_folders)
    images = PersonImages(data.train, 32, 16, data.train_pids())
    fresh = Feed(images, None, World(CPU), workers)
    cached = feed_of(class_folders, 0, 1, True)
    for epoch in range(2):
        order = shuffled_order(16, 8, seed=0, epoch=epoch)
        for (a, la), (b, lb) in zip(fresh(order), cached(order), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(la, lb)
    assert list(fresh(order[:0])) == []


def test_reading_does_not_disturb_the_random_numbers_of_the_network(class_folders):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    list(feed_of(class_folders, 0, 1, cached=False)(shuffled_order(16, 8, 0, 0)))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("cached", [True, False])
def test_rows_are_anybodys(class_folders, cached):
    pixels_of_rows, labels = feed_of(class_folders, 1, 2, cached).rows(range(3, 6))
    assert pixels_of_rows.shape == (3, 3, 32, 16)
    assert labels.tolist() == [0, 1, 1]


def test_a_file_that_breaks_under_a_worker_is_named_without_a_traceback(class_folders):
    data = layouts.find(class_folders)
    images = PersonImages(data.train, 32, 16, data.train_pids())
    broken = class_folders / "person2" / "c1_000.jpg"
    broken.write_bytes(b"")
    feed = Feed(images, None, World(CPU), workers=1)
    with pytest.raises(InputError) as caught:
        list(feed(shuffled_order(16, 8, 0, 0)))
    assert str(caught.value).startswith(f"{broken}: cannot be read")
    assert "Traceback" not in str(caught.value)
