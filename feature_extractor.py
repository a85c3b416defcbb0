"""Image crops in, unit vectors out: the trained network as a tracker calls it.

    from feature_extractor import Extractor
    extractor = Extractor()           # the network that comes along, or Extractor("checkpoint/best.pth")
    extractor(crops)                  # deep_sort_pytorch: RGB crops of any sizes -> (N, D)
    extractor.predict(crops)          # deep_sort_realtime: BGR crops -> list of vectors
    extractor.encode(frame, boxes)    # deep_sort: BGR frame and boxes -> (N, D)

    python feature_extractor.py MOT16/train/*    detections with features for the original deep_sort, as .npy

Crops are resized as `test.py` resizes images, so a crop has the vector that was tested. A program imports this file
and gets nothing else under a name that it may use itself (docs/trackers.md says where to put the folder).
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from appearance import cli
from appearance.cli import InputError
from appearance.data import sequences
from appearance.data.augment import normalize
from appearance.data.boxes import DETECTIONS
from appearance.data.images import load_rgb
from appearance.data.resize import resize, resize_all
from appearance.device import choose_device
from appearance.files import atomic_write, held
from appearance.networks import checkpoints, default_weights, runtimes, thresholds
from appearance.networks.flags import add_network_flags
from appearance.networks.inference import BothDirections, fuse_for_inference, unit_rows
from appearance.networks.precision import autocast, full_precision
from appearance.progress import progress

MEAN_BGR = (104, 116, 124)  # ImageNet's mean colour


class Extractor:
    """A network for inference, with its own input size.

    Always in eval mode: a crop's vector does not depend on the others in its batch (up to rounding, below 1e-6), nor on
    the caller's autocast, default dtype and random state, of which it changes none.

    Args:
        model_path: checkpoint of any kind that `checkpoints.load` knows (ours, `ckpt.t7`, state dicts, `.safetensors`),
            or an ONNX or TorchScript file of `export.py` or from elsewhere, which runs on the CPU. Left out: the
            network in `weights/`.
        use_cuda: use the current GPU if there is one.
        batch_size: most crops in one forward pass, which bounds the memory.
        flip: the mean of the vectors of a crop and its mirror image, for twice the time.
        height, width: of the network's input in pixels, to which crops are resized. One alone: the other follows the
            shape that the file says. Both left out: what the file says. A checkpoint that does not say it is taken for
            128x64, with a warning.
        normalize: how an ONNX or TorchScript file from elsewhere wants its images. "outside": colours from 0 to 1,
            normalised by ImageNet's mean and standard deviation before they enter, as most re-ID code does. "inside":
            plain colours from 0 to 1. Files of `export.py` say it themselves.
        last_stride: 1 or 2, stride of the last stage of a ResNet or MobileNetV2, for a checkpoint that does not say
            (2 with a warning).
        precision: number format in which a checkpoint's network runs: "fp32", "bf16", or on a GPU "fp16". Vectors are
            float32 in any case, and change by about 0.01.

    Attributes:
        height, width: of the network's input in pixels.
        feature_dim: numbers a vector.
        max_dist: the tracker's threshold that came with the weights, a cosine distance (`evaluate.py --calibrate
            --save-threshold`); None where the file has none.

    Raises:
        InputError: the file is missing, broken or of no known network; it contradicts these arguments; or it is an ONNX
            or TorchScript file whose size or normalisation neither the file nor the caller tells.
    """

    def __init__(
        self,
        model_path=None,
        use_cuda: bool = True,
        batch_size: int = 128,
        flip: bool = False,
        height: int | None = None,
        width: int | None = None,
        normalize: str | None = None,
        last_stride: int | None = None,
        precision: str = "fp32",
    ):
        path = Path(model_path or default_weights.WEIGHTS)
        if runtimes.is_graph(path):
            self.device = torch.device("cpu")
            source = self.net = runtimes.load(path, height, width, normalize)
            threshold = source.threshold
        else:
            if normalize is not None:
                raise InputError(f"normalize: is for ONNX and TorchScript files; {path} is a checkpoint, leave it out")
            self.device = choose_device("auto" if use_cuda else "cpu")
            source = checkpoints.load(path).with_input(height, width, last_stride)
            threshold = thresholds.carried(source.extra)
            with torch.random.fork_rng(devices=[]):  # a network draws weights before it gets those of the file
                net = checkpoints.from_checkpoint(source)
            self.net = fuse_for_inference(net).to(self.device)
            for doubt in source.doubts():
                warnings.warn(doubt, stacklevel=2)
        if flip and not getattr(source, "flip", False):  # an exported file may have both directions inside
            self.net = BothDirections(self.net)
        self.height, self.width = source.height, source.width
        self.max_dist: float | None = threshold.get("max_dist")
        self.feature_dim = self.net.feature_dim
        self.batch_size, self.precision = batch_size, precision

    def __call__(self, im_crops: Sequence[np.ndarray]) -> np.ndarray:
        """RGB crops, each (h, w, 3) uint8 of any size -> (N, D) float32 unit rows; (0, D) for none.

        Raises:
            ValueError: a crop has no pixels or is no such array; names its index.
        """
        return self._embed(im_crops)

    def predict(self, np_images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """BGR crops -> a list of (D,) float32 unit vectors, as deep_sort_realtime wants its embedder to answer."""
        return list(self._embed(np_images, bgr=True))

    def encode(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Boxes of one frame -> (N, D) float32 unit rows, as deep_sort wants its encoder to answer.

        Each box is widened or narrowed about its centre to the network's aspect ratio and clipped at the frame's
        border, in whole pixels, as deep_sort's own encoder does. A box with nothing inside the frame is described as
        a crop of the mean colour, with a warning (deep_sort: as random noise).

        Args:
            image: (H, W, 3) uint8 BGR frame.
            boxes: (N, 4) left, top, width, height in pixels, as an array or a list; [] for none.

        Raises:
            ValueError: the frame or the boxes are no such array, or a box is not finite; names the shape or the box.
        """
        boxes = check_boxes(boxes)
        if len(boxes):
            check_crop(image, "the frame")
        crops = []
        for index, box in enumerate(boxes):
            left, top, right, bottom = patch(box, image.shape, self.height, self.width)
            if left >= right or top >= bottom:
                where = "lies outside the frame" if box[3] > 0 else "has no height"
                warnings.warn(f"box {index} {box.tolist()} {where}", stacklevel=2)
                crops.append(np.full((self.height, self.width, 3), MEAN_BGR, dtype=np.uint8))
            else:
                crops.append(image[top:bottom, left:right])
        return self._embed(crops, bgr=True)

    @torch.inference_mode()
    def _embed(self, crops: Sequence[np.ndarray], bgr: bool = False) -> np.ndarray:
        if isinstance(crops, np.ndarray) and crops.ndim in (2, 3) and crops.size:
            raise ValueError(f"a list of crops is needed, not one image of shape {crops.shape}; put it into a list")
        rows = []
        for start in range(0, len(crops), self.batch_size):
            with full_precision():
                with autocast(self.device, self.precision):
                    features = self.net.embed(normalize(self._pixels(crops, start, bgr)))
                rows.append(unit_rows(features).cpu())
        return torch.cat(rows).numpy() if rows else np.empty((0, self.feature_dim), np.float32)

    def _pixels(self, crops: Sequence[np.ndarray], start: int, bgr: bool) -> Tensor:
        """The batch from crop `start` on: (B, 3, height, width) uint8 RGB, on the device.

        A GPU resizes all crops in one go. A CPU takes torchvision's kernel crop by crop, which is faster there; the
        pixels are the same.
        """
        batch = crops[start : start + self.batch_size]
        for index, crop in enumerate(batch, start):
            check_crop(crop, f"crop {index}")
        if self.device.type == "cuda":
            pixels = resize_all(batch, self.height, self.width, self.device)
        else:
            tensors = [torch.from_numpy(np.array(crop, order="C")).permute(2, 0, 1) for crop in batch]  # (3, h, w) each
            pixels = torch.stack([resize(tensor, self.height, self.width) for tensor in tensors])
        return pixels.flip(1) if bgr else pixels


def check_crop(crop, name: str) -> None:
    """Raises ValueError, with the name, where a crop is no (h, w, 3) uint8 array with pixels in it."""
    if not isinstance(crop, np.ndarray) or crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3:
        found = f"{crop.dtype} {crop.shape}" if isinstance(crop, np.ndarray) else type(crop).__name__
        raise ValueError(f"{name} is not a (height, width, 3) uint8 array: {found}")
    if crop.size == 0:
        raise ValueError(f"{name} has no pixels: its shape is {crop.shape}")


def check_boxes(boxes) -> np.ndarray:
    """Boxes as (N, 4) float64; raises ValueError where they are anything else or not finite."""
    try:
        numbers = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes are not an array of numbers (n, 4): {error}") from None
    if numbers.shape == (0,):
        numbers = numbers.reshape(0, 4)
    if numbers.ndim != 2 or numbers.shape[1] != 4:
        raise ValueError(
            f"boxes must be (n, 4), left, top, width, height each; these have the shape {numbers.shape}"
            + ("; put one box into a list" if numbers.shape == (4,) else "")
        )
    broken = np.flatnonzero(~np.isfinite(numbers).all(1))
    if broken.size:
        raise ValueError(f"box {broken[0]} {numbers[broken[0]].tolist()} is not finite")
    return numbers


def patch(box: np.ndarray, shape: Sequence[int], height: int, width: int) -> tuple[int, int, int, int]:
    """The part of a frame that deep_sort's encoder cuts out for a box: left, top, right, bottom in whole pixels.

    Args:
        box: left, top, width, height.
        shape: the frame's height and width, or more.
        height, width: of the network's input; the box takes their aspect ratio, keeping its height and its centre.
    """
    left, top, box_width, box_height = (int(value) for value in box)
    wanted = width / height * box_height
    left, box_width = int(left - (wanted - box_width) / 2), int(wanted)
    # the last row and column are never reached: so it is in deep_sort, and in the features it was tuned with
    right, bottom = min(left + box_width, shape[1] - 1), min(top + box_height, shape[0] - 1)
    return max(left, 0), max(top, 0), right, bottom


# ---------------------------------------------------------------------------------------------------------------------
# The flags of scripts that run a network on crops


def extractor_of(args, use_cuda: bool = True, precision: str = "fp32") -> Extractor:
    """The extractor that the flags of `add_network_flags` describe; prints what had to be assumed about its network.

    `args.weights` becomes the file that was chosen, where none is named.
    """
    args.weights = default_weights.choose(args.weights)
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        extractor = Extractor(
            args.weights,
            use_cuda=use_cuda,
            height=args.height,
            width=args.width,
            normalize=args.normalize,
            last_stride=args.last_stride,
            precision=precision,
        )
    for doubt in doubts:
        print(f"note: {doubt.message}")
    return extractor


# ---------------------------------------------------------------------------------------------------------------------
# python feature_extractor.py SEQUENCE ...


def sequence_detections(
    extractor: Extractor,
    folder: Path,
    detections: Path | None = None,
    reading: sequences.Reading = sequences.AS_FOUND,
    classes: Sequence[str] = (),
) -> np.ndarray:
    """A sequence's detections with their features: (N, 10 + D), the ten columns of MOTChallenge's `det.txt`, by frame.

    Frames have the numbers in the pictures' names, as deep_sort counts them. Boxes without a width or height, or with
    no part inside the frame, are left out; a line on stdout says how many.

    Args:
        folder: the sequence (`appearance/data/sequences.py` says what that is).
        detections: its boxes; None: `det/det.txt`, or where that is missing the people in `gt/gt.txt`.
        reading: how to read the file of boxes where it leaves that open.
        classes: names or numbers of the classes to take; none: people of `gt/gt.txt`, all of detections.

    Raises:
        InputError: the folder is not of this kind, or a frame is missing.
    """
    sequence = sequences.Sequence(folder, reading)
    if detections is None and not sequence.det.is_file() and sequence.gt.is_file():
        rows = sequence.people(classes)
    else:
        rows = sequence.detections if detections is None else sequence.read(detections, DETECTIONS)
        rows = rows[sequence.of_classes(rows, classes)[0]]
    rows, left_out = sequence.usable(rows)
    for said in (*rows.source.notes, *left_out):
        print(f"{rows.source.path}: {said}")
    unknown = np.full((len(rows), 3), -1)  # the place in the world
    table = np.column_stack([rows.frame, rows.track, rows.box, rows.confidence, unknown])
    blocks = [np.empty((0, 10 + extractor.feature_dim))]
    for number in progress(np.unique(rows.frame), desc=sequence.name, unit="frame"):
        if number not in sequence.frames:
            raise InputError(f"{folder}: frame {number} of {rows.source.path} is missing")
        frame = np.asarray(load_rgb(sequence.frames[number]))[:, :, ::-1]
        here = table[rows.frame == number]
        blocks.append(np.hstack([here, extractor.encode(frame, here[:, 2:6])]))
    return np.vstack(blocks)


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Write MOTChallenge detections with features for the original deep_sort.")
    add = parser.add_argument
    add("sequences", nargs="+", type=Path, metavar="SEQUENCE", help="folder with img1/, and det/ or gt/")
    add("--detections", nargs="+", type=Path, metavar="FILE", help="boxes for each sequence, instead of det/det.txt")
    add_network_flags(parser)
    add(
        "--classes",
        nargs="+",
        default=(),
        metavar="NAME",
        help="classes, by name or number (default: all; of gt/ people)",
    )
    sequences.Reading.add_flags(parser)
    add("--output", type=Path, default=Path("detections"), help="folder for the files SEQUENCE.npy")
    add("--cpu", action="store_true", help="do not use a GPU")
    return parser


def main(args) -> None:
    if args.detections and len(args.detections) != len(args.sequences):
        raise InputError(f"--detections: {len(args.detections)} files for {len(args.sequences)} sequences")
    extractor = extractor_of(args, use_cuda=not args.cpu)
    with held(args.output):
        for sequence, detections in zip(args.sequences, args.detections or [None] * len(args.sequences), strict=True):
            reading = sequences.Reading.of(args)
            rows = sequence_detections(extractor, sequence, detections, reading, args.classes)
            content = io.BytesIO()
            np.save(content, rows, allow_pickle=False)
            path = args.output / f"{sequence.name}.npy"
            atomic_write(path, lambda file, content=content: file.write(content.getvalue()))
            print(f"{sequence}: {len(rows):,} detections, {extractor.feature_dim} numbers each -> {path}")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
