"""Write a trained network in the formats that trackers load, and prove that each file gives the same vectors.

    python export.py                                             checkpoint/best.pth, or the one in weights/, as ONNX
    python export.py --format ckpt boxmot onnx onnx-int8         several at once
    python export.py --format onnx-int8 --data-dir ROOT          calibrated on ROOT, rank-1 and mAP measured on it
    python export.py --format boxmot --half                      weights of two bytes each, half the file

    ckpt         net_dict without classifier, for deep_sort_pytorch (`Net` at 128x64 only)
    boxmot       state_dict and model_name, for BoxMOT (OSNets; ResNets with --last-stride 2 --pooling avg)
    onnx         float32, any batch size; for BoxMOT, Ultralytics, OpenCV, onnxruntime, ...
    onnx-int8    the same in 8-bit integers: about twice as fast on CPUs
    torchscript  float32, any batch size
    npy-manifest one .npz: each tensor as .npy, and a manifest.json that tells shapes and input; for other languages

ONNX and TorchScript files take RGB crops at the network's size. With `--normalize outside` these come normalised by
ImageNet's mean and standard deviation, as most re-ID code does; with `--normalize inside` they come as they are from 0
to 1, as Ultralytics does. Each file says which (`appearance/networks/runtimes.py` reads it), and the output is always
unit rows. With `--flip` they are the mean of each crop and its mirror image, both inside the file, for twice the time.

A file appears under its name only after its vectors were compared with those of the checkpoint on real images.
"""

import functools
import io
import json
import logging
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from appearance import cli
from appearance.cli import InputError, RunFailed
from appearance.data import layouts, prepare
from appearance.data.augment import IMAGENET_MEAN, IMAGENET_STD, normalize
from appearance.files import explained
from appearance.machine import decoders
from appearance.measure import features_file, protocols
from appearance.measure.embed import fixed_batches, stream_pixels, test_features
from appearance.networks import checkpoints, runtimes, shipped
from appearance.networks.inference import BothDirections, fuse_for_inference, unit_rows
from datasets import PersonImages
from model import build_model, from_checkpoint
from utils import single_process

OPSET = 17  # of ONNX; onnxruntime 1.12 and OpenCV 4.8 read it
COMPARED_IMAGES = 64
MANIFEST = "manifest.json"
DEEP_SORT_SIZE = (128, 64)  # deep_sort_pytorch resizes every crop to this height and width
BOXMOT_RESNET = {"last_stride": 2, "pooling": "avg", "neck": "none"}  # BoxMOT builds its ResNets so


@dataclass
class Job:
    """What is exported, and the images it is checked and calibrated with."""

    checkpoint: checkpoints.Checkpoint
    inside: bool  # mean and standard deviation inside the file
    calibration: Tensor  # (C, 3, H, W) uint8
    flip: bool = False  # the mean of both directions inside the file
    half: bool = False  # files of weights hold float16, which their readers turn into float32 again

    @functools.cached_property
    def net(self) -> nn.Module:
        """The network as it is run everywhere else: normalised images -> unit rows."""
        net = fuse_for_inference(from_checkpoint(self.checkpoint))
        return BothDirections(net) if self.flip else net

    def graph(self) -> tuple[nn.Module, Tensor]:
        """The module to trace and an example batch for it."""
        height, width = self.checkpoint.height, self.checkpoint.width
        net = self.net.to(memory_format=torch.contiguous_format)
        module = runtimes.WithNormalization(net) if self.inside else net
        return module.eval(), torch.rand(2, 3, height, width)

    def description(self) -> str:
        """What an exported file says of itself, as JSON."""
        return json.dumps(
            {
                "arch": self.checkpoint.arch,
                "height": self.checkpoint.height,
                "width": self.checkpoint.width,
                "feature_dim": self.net.feature_dim,
                "normalize": "inside" if self.inside else "outside",
                "flip": self.flip,
                "input": f"RGB float32 (N, 3, {self.checkpoint.height}, {self.checkpoint.width}), "
                + ("0 to 1" if self.inside else "0 to 1, then ImageNet's mean and standard deviation"),
            }
        )


# ---------------------------------------------------------------------------------------------------------------------
# Formats: each writes a job to a path


def write_ckpt(job: Job, path: Path) -> None:
    checkpoint = job.checkpoint
    if checkpoint.arch != "net":
        raise InputError(f"--format ckpt: deep_sort_pytorch builds Net, and {checkpoint.path} holds {checkpoint.arch}")
    if (checkpoint.height, checkpoint.width) != DEEP_SORT_SIZE:
        raise InputError(
            f"--format ckpt: deep_sort_pytorch feeds 128x64 crops, and {checkpoint.path} was trained at "
            f"{checkpoint.height}x{checkpoint.width}; train it with --height 128 --width 64"
        )
    extra = {"acc": checkpoint.extra.get("acc", 0.0), "epoch": checkpoint.extra.get("epoch", 0)}
    checkpoints.save(path, {"net_dict": _trunk(job)} | extra)


def write_boxmot(job: Job, path: Path) -> None:
    checkpoint = job.checkpoint
    if checkpoint.arch.startswith("res"):
        options = {key: checkpoint.model_options.get(key, value) for key, value in BOXMOT_RESNET.items()}
        if options != BOXMOT_RESNET or checkpoint.model_options.get("truncated"):
            raise InputError(
                f"--format boxmot: BoxMOT's {checkpoint.arch} has last stride 2, average pooling and no neck, and the "
                f"one in {checkpoint.path} has {checkpoint.model_options}; use --format onnx, which BoxMOT also loads"
            )
    elif not checkpoint.arch.startswith("osnet"):
        raise InputError(f"--format boxmot: BoxMOT does not build {checkpoint.arch}; use --format onnx, which it loads")
    content = {
        "state_dict": _trunk(job),
        "model_name": checkpoint.arch,
        "num_classes": 1,
        "img_size": [checkpoint.height, checkpoint.width],
        "preprocess": "resize",
        "height": checkpoint.height,
        "width": checkpoint.width,
    }
    checkpoints.save(path, content)


def _trunk(job: Job) -> dict[str, Tensor]:
    """The weights without the classifier, whose size belongs to the training identities."""
    prefix = job.net.classifier_prefix
    weights = {key: value for key, value in job.checkpoint.net_dict.items() if not key.startswith(prefix)}
    if job.half:
        return {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    return weights


def write_onnx(job: Job, path: Path) -> None:
    onnx = runtimes.needed("onnx")
    module, example = job.graph()
    with warnings.catch_warnings():
        # the exporter of torch.export needs a third package, and its files hold the same convolutions
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["features"],
            dynamic_axes={"images": {0: "batch"}, "features": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    model.metadata_props.add(key=runtimes.KEY, value=job.description())
    onnx.save(model, str(path))


def write_onnx_int8(job: Job, path: Path) -> None:
    """Weights of each output channel in int8, activations in uint8, ranges from the calibration images."""
    onnxruntime = runtimes.needed("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    images = normalize(job.calibration) if not job.inside else job.calibration.float() / 255

    class Batches(CalibrationDataReader):
        batches = iter(images.split(16))

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    whole = path.with_suffix(".fp32.onnx")
    write_onnx(job, whole)
    logging.disable(logging.WARNING)  # advice to fold BatchNorm first, which is done
    onnxruntime.set_default_logger_severity(3)  # errors
    try:
        quantize_static(
            str(whole),
            str(path),
            Batches(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # 7 bits for weights: the 8-bit products of CPUs without VNNI saturate at 16 bits
        )
    finally:
        logging.disable(logging.NOTSET)


def write_torchscript(job: Job, path: Path) -> None:
    module, example = job.graph()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch announces an end of TorchScript; trackers still load it
        traced, content = torch.jit.trace(module, example), io.BytesIO()
        torch.jit.save(traced, content, _extra_files={runtimes.KEY: job.description()})
    path.write_bytes(content.getvalue())  # a full disk aborts the process where torch writes the file itself


def write_npy_manifest(job: Job, path: Path) -> None:
    arrays = {name: value.numpy() for name, value in _trunk(job).items()}
    manifest = json.loads(job.description()) | {
        "normalize": "outside",  # plain weights: nothing is inside
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "model_options": job.checkpoint.model_options,
        "tensors": {name: {"shape": value.shape, "dtype": str(value.dtype)} for name, value in arrays.items()},
    }
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(MANIFEST, json.dumps(manifest, indent=1))


def read_npy_manifest(path: Path) -> nn.Module:
    """The network in a file of `write_npy_manifest`, from nothing but what is in it."""
    with np.load(path) as file:
        manifest = json.loads(file[MANIFEST])
        weights = {name: torch.from_numpy(file[name]) for name in manifest["tensors"]}
    net = build_model(manifest["arch"], 1, reid=True, **manifest["model_options"])
    missing, unexpected = net.load_state_dict(weights, strict=False)
    if unexpected or not all(name.startswith(net.classifier_prefix) for name in missing):
        raise RunFailed(f"{path}: not the tensors of {manifest['arch']}")
    return net.eval()


@dataclass(frozen=True)
class Format:
    write: Callable[[Job, Path], None]
    name: str  # of the file, from {arch} and {size}
    tolerance: float  # largest cosine difference to the checkpoint's vectors
    weights_only: bool = False  # what is done with them is up to the reader


FORMATS = {
    "ckpt": Format(write_ckpt, "ckpt.t7", 1e-5, weights_only=True),
    "boxmot": Format(write_boxmot, "{arch}_reid.pt", 1e-5, weights_only=True),
    "onnx": Format(write_onnx, "{arch}_{size}.onnx", 1e-5),
    "onnx-int8": Format(write_onnx_int8, "{arch}_{size}_int8.onnx", 0.05),
    "torchscript": Format(write_torchscript, "{arch}_{size}.torchscript", 1e-5),
    "npy-manifest": Format(write_npy_manifest, "{arch}_{size}.npz", 1e-5, weights_only=True),
}


# ---------------------------------------------------------------------------------------------------------------------
# Proof


def load_back(path: Path, job: Job) -> nn.Module:
    """The network as a reader of the file gets it."""
    if path.suffix in runtimes.SUFFIXES:
        return runtimes.load(path)
    if path.suffix == ".npz":
        return read_npy_manifest(path)
    checkpoint = checkpoints.load(path)
    return from_checkpoint(checkpoint)


@torch.inference_mode()
def differences(net: nn.Module, reference: nn.Module, pixels: Tensor) -> Tensor:
    """Cosine difference of two networks' vectors of each image of (N, 3, H, W) uint8: (N,)."""
    images = normalize(pixels)
    wanted, found = unit_rows(reference.embed(images)), unit_rows(net.embed(images))
    return (wanted - found).square().sum(1) / 2  # 1 - cosine, of unit rows, without losing small differences


def retrieval(net: nn.Module, data: layouts.ReIDData, checkpoint: checkpoints.Checkpoint) -> tuple[float, float]:
    """Rank-1 and mAP of a network on a dataset's query and gallery."""
    query, gallery = (
        PersonImages(people, checkpoint.height, checkpoint.width) for people in (data.query, data.gallery)
    )
    found = test_features(net, query, gallery, single_process("cpu"))
    metrics = protocols.figures(features_file.check(found))
    return metrics["rank1"], metrics["mAP"]


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Write a trained network in the formats that trackers load.")
    add = parser.add_argument
    add("--weights", type=Path, help="checkpoint of any known kind (default: checkpoint/best.pth or that in weights/)")
    add("--height", type=int, help="height of the network's input in pixels (default: what --weights says, else 128)")
    add("--width", type=int, help="width of the network's input in pixels (default: what --weights says, else 64)")
    add("--last-stride", type=int, choices=(1, 2), help="of a ResNet or MobileNetV2 whose file does not say it")
    add("--format", nargs="+", choices=sorted(FORMATS), default=["onnx"], help="what to write")
    add("--output", type=Path, default=Path("export"), help="folder for the files")
    add("--normalize", choices=("outside", "inside"), default="outside", help="who applies mean and standard deviation")
    add("--flip", action="store_true", help="the mean of each crop and its mirror image, for twice the time")
    add("--half", action="store_true", help="float16 in ckpt, boxmot and npy-manifest files: half the size")
    add(
        "--data-dir",
        type=Path,
        help="dataset to calibrate and measure with; the sample, unmeasured, if left out",
    )
    add("--calibration-images", type=int, default=256, help="training images that set the ranges of int8")
    return parser


def main(args) -> None:
    if args.calibration_images < 1:
        raise InputError(f"--calibration-images {args.calibration_images}: must be 1 or more")
    args.weights = shipped.chosen(args.weights)
    checkpoint = checkpoints.load(args.weights).with_input(args.height, args.width, args.last_stride)
    for doubt in checkpoint.doubts():
        print(f"note: {doubt}")
    data = layouts.find(args.data_dir or prepare.the_sample(single_process("cpu")))
    count = args.calibration_images if "onnx-int8" in args.format else 1
    calibration = some_pixels(data.train or data.gallery, count, checkpoint)
    job = Job(checkpoint, args.normalize == "inside", calibration, args.flip, args.half)
    compared = some_pixels(data.query or data.train, COMPARED_IMAGES, checkpoint)
    size = f"{checkpoint.height}x{checkpoint.width}"
    print(f"{args.weights}: {checkpoint.arch}, {size}, {job.net.feature_dim} numbers a crop")
    measured = bool(args.data_dir) and data.can_evaluate
    if measured:
        print(f"  {'checkpoint':<12} " + "rank-1 {:.2%}  mAP {:.2%}".format(*retrieval(job.net, data, checkpoint)))
    refused = []
    for name in dict.fromkeys(args.format):
        kind = size + ("_flip" if args.flip else "")
        path = args.output / FORMATS[name].name.format(arch=checkpoint.arch, size=kind)
        try:
            line = export(name, job, path, compared, data if measured else None)
        except InputError as error:  # of this format: the others can still be written
            refused.append(str(error))
            continue
        print(f"  {name:<12} {line}", flush=True)
    if refused:
        raise InputError("; ".join(refused))


def export(name: str, job: Job, path: Path, compared: Tensor, data: layouts.ReIDData | None) -> str:
    """Write one format, compare it, measure it on `data`, and put it in its place; returns the line that says so.

    Raises:
        RunFailed: its vectors are not those of the checkpoint.
    """
    if job.flip and FORMATS[name].weights_only:
        raise InputError(f"--flip: a {name} file holds weights alone; whoever runs them averages both directions")
    if job.half and not FORMATS[name].weights_only:
        raise InputError(f"--half: {name} files are run as they are; leave --half out for them")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"--output {path.parent}: cannot be written ({error.strerror})") from None
    with folder:
        temporary = Path(folder.name) / path.name
        with explained(path):
            FORMATS[name].write(job, temporary)
        net = load_back(temporary, job)
        apart = differences(net, job.net, compared)
        line = f"cosine difference at most {apart.max():.1e}, {apart.mean():.1e} on average"
        if not apart.max() <= FORMATS[name].tolerance:
            raise RunFailed(f"--format {name}: {line}; allowed are {FORMATS[name].tolerance:.0e}. Nothing was written")
        if data is not None:
            line += "  rank-1 {:.2%}  mAP {:.2%}".format(*retrieval(net, data, job.checkpoint))
        os.replace(temporary, path)
    return f"{line}  {path.stat().st_size / 2**20:.1f} MB -> {path}"


def some_pixels(samples: list[layouts.Sample], count: int, checkpoint: checkpoints.Checkpoint) -> Tensor:
    """`count` images spread evenly over `samples`, fewer if there are not so many: (N, 3, H, W) uint8."""
    count = min(count, len(samples))
    chosen = [samples[number * len(samples) // count] for number in range(count)]
    images = PersonImages(chosen, checkpoint.height, checkpoint.width)
    return torch.cat(list(stream_pixels(images, fixed_batches(count, 64), decoders())))


if __name__ == "__main__":
    cli.run(main, get_args_parser())
