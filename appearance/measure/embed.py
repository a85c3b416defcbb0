"""The feature extraction loop, for `test.py` and for validation during training."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from tqdm import tqdm

from appearance.data.augment import normalize
from appearance.data.layouts import Sample
from appearance.data.names import UNKNOWN
from appearance.distributed import World
from appearance.machine import chunks, decoders
from appearance.networks.inference import fuse_for_inference, unit_rows
from appearance.networks.precision import autocast, full_precision
from appearance.progress import progress


def fixed_batches(count: int, size: int) -> list[range]:
    """Split `count` images into batches of at most `size`, the same for any number of processes."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def stream_pixels(images, batches: Sequence[Sequence[int]], workers: int) -> Iterator[Tensor]:
    """Decode batches of images, (B, 3, H, W) uint8 each, one batch ahead, so memory holds at most two."""
    with ThreadPoolExecutor(max(1, workers)) as pool:

        def submit(batch):
            return [pool.submit(lambda some=some: [images[index][0] for index in some]) for some in chunks(batch)]

        ahead = submit(batches[0]) if batches else []
        for number in range(len(batches)):
            current, ahead = ahead, submit(batches[number + 1]) if number + 1 < len(batches) else []
            yield torch.stack([pixels for future in current for pixels in future.result()])


@torch.inference_mode()
def extract_features(
    net: nn.Module,
    pixel_batches: Iterator[Tensor],
    world: World,
    precision: str = "fp32",
    bar: tqdm | None = None,
) -> list[Tensor]:
    """Unit features of each batch: a list of (B, D) float32 on the CPU.

    Args:
        net: the network, in any mode; a fused copy of it is used.
        pixel_batches: (B, 3, H, W) uint8 each.
        world: gives the device.
        precision: "fp32", "bf16" or "fp16" for the network; features are always float32.
        bar: progress bar to update with the number of images.
    """
    net = fuse_for_inference(net).to(world.device)
    features = []
    for pixels in pixel_batches:
        with full_precision(), autocast(world.device, precision):
            embedded = net.embed(normalize(pixels.to(world.device, non_blocking=True)))
        features.append(unit_rows(embedded).cpu())
        if bar is not None:
            bar.update(len(pixels))
    return features


def features_of(
    net: nn.Module,
    images,
    world: World,
    batch_size: int = 128,
    precision: str = "fp32",
    workers: int | None = None,
    desc: str = "features",
) -> Tensor | None:
    """(N, D) float32 unit features of all images on rank 0; None on other ranks.

    Processes share whole batches, so the result does not depend on their number.
    """
    batches = fixed_batches(len(images), batch_size)
    mine = batches[world.rank :: world.size]
    stream = stream_pixels(images, mine, workers or decoders())
    total = sum(map(len, mine))
    with progress(total=total, desc=desc, unit="img", hidden=not world.is_main) as bar:
        features = extract_features(net, stream, world, precision, bar)
    parts = world.gather(features)
    if parts is None:
        return None
    whole = [parts[number % world.size][number // world.size] for number in range(len(batches))]
    return torch.cat(whole) if whole else torch.empty(0, net.feature_dim)


def test_features(net: nn.Module, query, gallery, world: World, **options) -> dict | None:
    """Query and gallery features as a features dict (`features_file.py`) on rank 0; None on other ranks.

    Args:
        query, gallery: `datasets.PersonImages`. Images of a tracklet (MARS) are averaged into one row.
        options: of `features_of`.
    """
    parts = {"q": ("query", query), "g": ("gallery", gallery)}
    rows = {side: features_of(net, images, world, desc=name, **options) for side, (name, images) in parts.items()}
    if not world.is_main:
        return None
    result = {}
    for side, (_, images) in parts.items():
        samples, features = average_tracklets(images.people, rows[side])
        result[f"{side}f"] = features
        result[f"{side}l"] = torch.tensor([s.pid for s in samples])
        result[f"{side}c"] = torch.tensor([s.camera for s in samples])
        result[f"{side}t"] = torch.tensor([s.time for s in samples])
        result[f"{side}_paths"] = [s.path for s in samples]
    return result


def average_tracklets(samples: Sequence[Sample], rows: Tensor) -> tuple[list[Sample], Tensor]:
    """One sample and unit row per tracklet: its first image, and the normalised mean of its images' rows (N, D).

    If no sample has a tracklet, samples and rows are returned unchanged.
    """
    if all(sample.tracklet == UNKNOWN for sample in samples):
        return list(samples), rows
    number: dict[int, int] = {}
    group = torch.tensor([number.setdefault(sample.tracklet, len(number)) for sample in samples])
    sums = torch.zeros(len(number), rows.shape[1]).index_add_(0, group, rows)
    firsts: dict[int, Sample] = {}
    for sample in samples:
        firsts.setdefault(sample.tracklet, sample)
    return list(firsts.values()), unit_rows(sums)
