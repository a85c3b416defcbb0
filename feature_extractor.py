"""Run the trained network in a tracker: image crops to unit vectors.

    from feature_extractor import Extractor
    extractor = Extractor()           # default weights, or Extractor("checkpoint/best.pth")
    extractor(crops)                  # deep_sort_pytorch: RGB crops of any sizes -> (N, D)
    extractor.predict(crops)          # deep_sort_realtime: BGR crops -> list of vectors
    extractor.encode(frame, boxes)    # deep_sort: BGR frame and boxes -> (N, D)

    python feature_extractor.py MOT16/train/*    detections with features for the original deep_sort, as .npy

Crops are resized exactly as in `test.py`, so a tracker gets the vectors that were tested. Importing this file adds no
other module names that a tracker may use itself (docs/trackers.md says where to put the folder).
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
    """A network for inference, in eval mode.

    A crop's vector does not depend on the other crops in its batch (up to rounding errors below 1e-6), nor on the
    caller's autocast, default dtype and random state, none of which it changes.

    Args:
        model_path: checkpoint of any kind that `checkpoints.load` supports (ours, `ckpt.t7`, state dicts,
            `.safetensors`), or an ONNX or TorchScript file (of `export.py` or others), which runs on the CPU. None: the
            default weights in `weights/`.
        use_cuda: use the current GPU if there is one.
        batch_size: largest number of crops per forward pass, to bound the memory.
        flip: average the vectors of each crop and its mirror image, in twice the time.
        height, width: input size in pixels, to which crops are resized. Both None: from the file, or 128x64 with a
            warning if the file does not say it. One None: in proportion to the file's size.
        normalize: for ONNX and TorchScript files that are not of `export.py`: "outside" if images must be normalised
            with ImageNet's mean and standard deviation (most re-ID code), "inside" if the file takes colours from 0 to
            1.
        last_stride: stride (1 or 2) of the last stage of a ResNet or MobileNetV2, for checkpoints that do not say it
            (default 2, with a warning).
        precision: number format of a checkpoint's network: "fp32", "bf16", or on a GPU "fp16". Vectors are float32
            always; bf16 changes them by about 0.01.

    Attributes:
        height, width: input size in pixels.
        feature_dim: length of a vector.
        max_dist: the tracker's threshold saved with the weights, a cosine distance (`evaluate.py --calibrate
            --save-threshold`); None without one.

    Raises:
        InputError: the file is missing, damaged or not a supported network; it contradicts the arguments; or it is an
            ONNX or TorchScript file whose input size or normalisation is neither in the file nor given.
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
                raise InputError(
                    f"normalize: only for ONNX and TorchScript files; {path} is a checkpoint, leave the argument out"
                )
            self.device = choose_device("auto" if use_cuda else "cpu")
            source = checkpoints.load(path).with_input(height, width, last_stride)
            threshold = thresholds.carried(source.extra)
            with torch.random.fork_rng(devices=[]):  # building a network initialises random weights
                net = checkpoints.from_checkpoint(source)
            self.net = fuse_for_inference(net).to(self.device)
            for doubt in source.doubts():
                warnings.warn(doubt, stacklevel=2)
        if flip and not getattr(source, "flip", False):  # an exported file may flip inside
            self.net = BothDirections(self.net)
        self.height, self.width = source.height, source.width
        self.max_dist: float | None = threshold.get("max_dist")
        self.feature_dim = self.net.feature_dim
        self.batch_size, self.precision = batch_size, precision

    def __call__(self, im_crops: Sequence[np.ndarray]) -> np.ndarray:
        """RGB crops, each (h, w, 3) uint8 of any size -> (N, D) float32 unit rows; (0, D) without crops.

        Raises:
            ValueError: a crop is not such an array or has no pixels; names its index.
        """
        return self._embed(im_crops)

    def predict(self, np_images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """BGR crops, each (h, w, 3) uint8 -> list of (D,) float32 unit vectors: the embedder of deep_sort_realtime."""
        return list(self._embed(np_images, bgr=True))

    def encode(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Boxes of one frame -> (N, D) float32 unit rows: the encoder of deep_sort.

        As in deep_sort's own encoder, the width of each box is changed about its centre to the network's aspect ratio,
        and the box is clipped at the frame's border, in whole pixels. For a box outside the frame, a crop of the mean
        colour is used, with a warning (deep_sort uses random noise).

        Args:
            image: (H, W, 3) uint8 BGR frame.
            boxes: (N, 4) left, top, width, height in pixels, array or list; [] is allowed.

        Raises:
            ValueError: the frame or the boxes are not such arrays, or a box has NaN or infinite values.
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
            raise ValueError(f"crops must be a list, not one image of shape {crops.shape}; put the image into a list")
        rows = []
        for start in range(0, len(crops), self.batch_size):
            with full_precision():
                with autocast(self.device, self.precision):
                    features = self.net.embed(normalize(self._pixels(crops, start, bgr)))
                rows.append(unit_rows(features).cpu())
        return torch.cat(rows).numpy() if rows else np.empty((0, self.feature_dim), np.float32)

    def _pixels(self, crops: Sequence[np.ndarray], start: int, bgr: bool) -> Tensor:
        """The batch that begins at crop `start`: (B, 3, height, width) uint8 RGB, on the device.

        A GPU resizes all crops together. On a CPU, torchvision's kernel is faster, crop by crop; the pixels are equal.
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
    """Raises ValueError, with the name, if a crop is not an (h, w, 3) uint8 array or has no pixels."""
    if not isinstance(crop, np.ndarray) or crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3:
        found = f"{crop.dtype} {crop.shape}" if isinstance(crop, np.ndarray) else type(crop).__name__
        raise ValueError(f"{name} is not a (height, width, 3) uint8 array: {found}")
    if crop.size == 0:
        raise ValueError(f"{name} has no pixels: its shape is {crop.shape}")


def check_boxes(boxes) -> np.ndarray:
    """Boxes as (N, 4) float64. Raises ValueError for other shapes, and NaN or infinite values."""
    try:
        numbers = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes must be an array of numbers (n, 4): {error}") from None
    if numbers.shape == (0,):
        numbers = numbers.reshape(0, 4)
    if numbers.ndim != 2 or numbers.shape[1] != 4:
        raise ValueError(
            f"boxes must be (n, 4), left, top, width, height each, but have shape {numbers.shape}"
            + ("; put one box into a list" if numbers.shape == (4,) else "")
        )
    broken = np.flatnonzero(~np.isfinite(numbers).all(1))
    if broken.size:
        raise ValueError(f"box {broken[0]} {numbers[broken[0]].tolist()} has NaN or infinite values")
    return numbers


def patch(box: np.ndarray, shape: Sequence[int], height: int, width: int) -> tuple[int, int, int, int]:
    """The crop of deep_sort's encoder for a box: (left, top, right, bottom) in whole pixels.

    Args:
        box: (4,) left, top, width, height in pixels.
        shape: shape of the frame, beginning with height and width.
        height, width: input size of the network, whose aspect ratio the crop gets; height and centre are the box's.
    """
    left, top, box_width, box_height = (int(value) for value in box)
    wanted = width / height * box_height
    left, box_width = int(left - (wanted - box_width) / 2), int(wanted)
    # the last row and column are never used: as in deep_sort, whose parameters were tuned with such crops
    right, bottom = min(left + box_width, shape[1] - 1), min(top + box_height, shape[0] - 1)
    return max(left, 0), max(top, 0), right, bottom


# ---------------------------------------------------------------------------------------------------------------------
# For scripts that run a network on crops


def extractor_of(args, use_cuda: bool = True, precision: str = "fp32") -> Extractor:
    """The extractor for the flags of `add_network_flags`; prints its warnings as notes.

    Without --weights, `args.weights` is set to the chosen file.
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
    """A sequence's detections with features, (N, 10 + D), by frame: MOTChallenge's `det.txt` columns, then the vector.

    Frame numbers are those in the image names, as in deep_sort. Boxes without width or height, or outside the frame,
    are left out; their number is printed.

    Args:
        folder: a sequence (see `appearance/data/sequences.py`).
        detections: file of boxes; None: `det/det.txt`, or if missing the people in `gt/gt.txt`.
        reading: how to read the file of boxes if that is ambiguous.
        classes: names or numbers of classes to use; empty: people of `gt/gt.txt`, all detections.

    Raises:
        InputError: the folder is not a sequence, or a frame is missing.
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
    unknown = np.full((len(rows), 3), -1)  # world coordinates
    table = np.column_stack([rows.frame, rows.track, rows.box, rows.confidence, unknown])
    blocks = [np.empty((0, 10 + extractor.feature_dim))]
    for number in progress(np.unique(rows.frame), desc=sequence.name, unit="frame"):
        if number not in sequence.frames:
            raise InputError(f"{folder}: has no image of frame {number}, which is in {rows.source.path}")
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
        raise InputError(
            f"--detections: {len(args.detections)} files for {len(args.sequences)} sequences; give one file for each"
        )
    extractor = extractor_of(args, use_cuda=not args.cpu)
    with held(args.output):
        for sequence, detections in zip(args.sequences, args.detections or [None] * len(args.sequences), strict=True):
            reading = sequences.Reading.of(args)
            rows = sequence_detections(extractor, sequence, detections, reading, args.classes)
            content = io.BytesIO()
            np.save(content, rows, allow_pickle=False)
            path = args.output / f"{sequence.name}.npy"
            atomic_write(path, lambda file, content=content: file.write(content.getvalue()))
            print(f"{sequence}: {len(rows):,} detections, {extractor.feature_dim} features each -> {path}")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
