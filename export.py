"""Export a trained network to the formats that trackers load, and verify that each file gives the same vectors.

    python export.py                                       checkpoint/best.pth, else weights/, as ONNX
    python export.py --format ckpt boxmot onnx onnx-int8   several formats
    python export.py --format onnx-int8 --data-dir ROOT    int8 calibrated on ROOT; rank-1 and mAP measured on ROOT
    python export.py --format boxmot --half                float16 weights, half the file size
    python export.py --for ultralytics                     the format for a certain program

    ckpt         net_dict without classifier, for deep_sort_pytorch (`Net` at 128x64 only)
    boxmot       state_dict and model_name, for BoxMOT (OSNets; ResNets with --last-stride 2 --pooling avg)
    onnx         float32, any batch size; for BoxMOT, Ultralytics, OpenCV, onnxruntime, ...
    onnx-int8    the same with 8-bit integers: about twice as fast on CPUs
    reid         a folder with weights.safetensors and reid_config.json, for Roboflow's package reid (OSNets)
    torchscript  float32, any batch size

ONNX and TorchScript files take RGB crops of the network's input size only, and return unit rows. With `--normalize
outside` (most re-ID code) crops must be normalised with ImageNet's mean and standard deviation; with `--normalize
inside` (Ultralytics) they are from 0 to 1, and the file name contains _inside. Each file describes its input
(`appearance/networks/runtimes.py` reads the description; BoxMOT reads NAME.metadata.json next to the file). With
`--flip`, the file averages the vectors of each crop and its mirror image, in twice the time.

A file is renamed to its final name only after its vectors were compared with those of the checkpoint.
"""

import functools
import io
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from appearance import cli
from appearance.cli import InputError, RunFailed
from appearance.data import layouts
from appearance.data.augment import IMAGENET_MEAN, IMAGENET_STD, normalize
from appearance.data.resize import resize
from appearance.drawn import sample
from appearance.files import FolderLost, beside, explained, held, write_text
from appearance.flags import positive
from appearance.machine import decoders
from appearance.measure import features_file, protocols
from appearance.measure.calibrate import in_digits
from appearance.measure.embed import fixed_batches, stream_pixels, test_features
from appearance.networks import checkpoints, default_weights, runtimes, thresholds
from appearance.networks.flags import add_network_flags
from appearance.networks.inference import BothDirections, fuse_for_inference, unit_rows
from datasets import PersonImages
from model import from_checkpoint
from utils import single_process

OPSET = 17  # of ONNX; onnxruntime 1.12 and OpenCV 4.8 read it
COMPARED_IMAGES = 64
DEEP_SORT_SIZE = (128, 64)  # height and width to which deep_sort_pytorch resizes every crop
REID_WEIGHTS = "weights.safetensors"
BOXMOT_RESNET = {"last_stride": 2, "pooling": "avg", "neck": "none"}  # options of BoxMOT's ResNets


@dataclass
class Job:
    """The network to export, the options, and images to calibrate int8 with."""

    checkpoint: checkpoints.Checkpoint
    inside: bool  # apply mean and standard deviation inside the file
    calibration: Tensor  # (C, 3, H, W) uint8
    flip: bool = False  # average with the mirror image inside the file
    half: bool = False  # store weights as float16; readers convert them to float32

    @functools.cached_property
    def net(self) -> nn.Module:
        """The network as `Extractor` runs it: (N, 3, H, W) normalised images -> (N, D) unit rows."""
        net = fuse_for_inference(from_checkpoint(self.checkpoint))
        return BothDirections(net) if self.flip else net

    def graph(self) -> tuple[nn.Module, Tensor]:
        """The module to trace and an example batch for it."""
        height, width = self.checkpoint.height, self.checkpoint.width
        net = self.net.to(memory_format=torch.contiguous_format)
        module = runtimes.WithNormalization(net) if self.inside else net
        return module.eval(), torch.rand(2, 3, height, width)

    def description(self) -> str:
        """The description in an exported file, as JSON (see `runtimes.py`)."""
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
            | thresholds.carried(self.checkpoint.extra)
        )


# ---------------------------------------------------------------------------------------------------------------------
# Formats: each writes a job to a path


def write_ckpt(job: Job, path: Path) -> None:
    checkpoint = job.checkpoint
    if checkpoint.arch != "net":
        raise InputError(
            f"--format ckpt: deep_sort_pytorch supports only Net, but {checkpoint.path} is {checkpoint.arch}; use "
            "another --format"
        )
    if (checkpoint.height, checkpoint.width) != DEEP_SORT_SIZE:
        raise InputError(
            f"--format ckpt: deep_sort_pytorch uses 128x64 crops, but {checkpoint.path} was trained at "
            f"{checkpoint.height}x{checkpoint.width}; train with --height 128 --width 64"
        )
    extra = {"acc": checkpoint.extra.get("acc", 0.0), "epoch": checkpoint.extra.get("epoch", 0)}
    checkpoints.save(path, {"net_dict": _trunk(job)} | extra | thresholds.carried(checkpoint.extra))


def not_of_boxmot(checkpoint: checkpoints.Checkpoint) -> str:
    """Why BoxMOT does not support this network; "" if it does."""
    if checkpoint.arch.startswith("res"):
        options = {key: checkpoint.model_options.get(key, value) for key, value in BOXMOT_RESNET.items()}
        if options != BOXMOT_RESNET or checkpoint.model_options.get("truncated"):
            return (
                f"BoxMOT's {checkpoint.arch} has last stride 2, average pooling and no neck, but that in "
                f"{checkpoint.path} has {checkpoint.model_options}"
            )
    elif not checkpoint.arch.startswith("osnet"):
        return f"BoxMOT does not support {checkpoint.arch}"
    return ""


def write_boxmot(job: Job, path: Path) -> None:
    checkpoint = job.checkpoint
    if reason := not_of_boxmot(checkpoint):
        raise InputError(f"--format boxmot: {reason}; use --format onnx, which BoxMOT can run too")
    content = {
        "state_dict": _trunk(job),
        "model_name": checkpoint.arch,
        "num_classes": 1,
        "img_size": [checkpoint.height, checkpoint.width],
        "preprocess": "resize",
        "height": checkpoint.height,
        "width": checkpoint.width,
    }
    checkpoints.save(path, content | thresholds.carried(checkpoint.extra))


def _trunk(job: Job) -> dict[str, Tensor]:
    """The weights without the classifier, which is of no use outside training."""
    prefix = job.net.classifier_prefix
    weights = {key: value for key, value in job.checkpoint.net_dict.items() if not key.startswith(prefix)}
    if job.half:
        return {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    return weights


def write_onnx(job: Job, path: Path) -> None:
    onnx = runtimes.needed("onnx")
    module, example = job.graph()
    with warnings.catch_warnings():
        # about the newer exporter, which needs another package and produces the same convolutions
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


def write_reid(job: Job, path: Path) -> None:
    """A folder with `weights.safetensors` and `reid_config.json`, the format of Roboflow's package reid."""
    checkpoint = job.checkpoint
    if not checkpoint.arch.startswith("osnet"):
        raise InputError(
            f"--format reid: the package reid supports only OSNets, but {checkpoint.path} is {checkpoint.arch}; use "
            "another --format"
        )
    runtimes.needed("safetensors")
    from safetensors.torch import save_file

    size = [checkpoint.height, checkpoint.width]
    preprocessing = {"input_size": size, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bilinear"}
    preprocessing |= {"to_rgb": True, "resize_mode": "stretch"}
    config = {"architecture": checkpoint.arch, "preprocessing": preprocessing} | thresholds.carried(checkpoint.extra)
    path.mkdir()
    save_file({name: value.contiguous() for name, value in _trunk(job).items()}, path / REID_WEIGHTS)
    (path / "reid_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_onnx_int8(job: Job, path: Path) -> None:
    """Weights in int8 per output channel, activations in uint8, with ranges from the calibration images."""
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
    logging.disable(logging.WARNING)  # advice to fold BatchNorm first, which has been done
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
            reduce_range=True,  # 7-bit weights, because CPUs without VNNI accumulate products in saturating 16 bits
        )
    finally:
        logging.disable(logging.NOTSET)


def write_torchscript(job: Job, path: Path) -> None:
    module, example = job.graph()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but trackers still load it
        checked = runtimes.OfItsSize(torch.jit.trace(module, example), *example.shape[2:], job.inside)
        content = io.BytesIO()
        torch.jit.save(torch.jit.script(checked), content, _extra_files={runtimes.KEY: job.description()})
    path.write_bytes(content.getvalue())  # if torch writes the file itself, a full disk aborts the process


@dataclass(frozen=True)
class Format:
    write: Callable[[Job, Path], None]
    name: str  # file name with {arch} and {size}
    tolerance: float  # largest cosine distance to the checkpoint's vectors
    weights_only: bool = False  # no graph: flip and normalisation are up to the reader
    folder: bool = False  # a folder of files


FORMATS = {
    "ckpt": Format(write_ckpt, "ckpt.t7", 1e-5, weights_only=True),
    "boxmot": Format(write_boxmot, "{arch}_reid.pt", 1e-5, weights_only=True),
    "onnx": Format(write_onnx, "{arch}_{size}.onnx", 1e-5),
    "onnx-int8": Format(write_onnx_int8, "{arch}_{size}_int8.onnx", 0.05),
    "reid": Format(write_reid, "{arch}_{size}_reid", 1e-5, weights_only=True, folder=True),
    "torchscript": Format(write_torchscript, "{arch}_{size}.torchscript", 1e-5),
}
HOSTS = {  # program -> (format, --normalize)
    "boxmot": ("boxmot", "outside"),  # "onnx" if BoxMOT does not support the architecture
    "deep_sort_pytorch": ("ckpt", "outside"),
    "reid": ("reid", "outside"),
    "ultralytics": ("onnx", "inside"),
}


# ---------------------------------------------------------------------------------------------------------------------
# Verification


def load_back(path: Path, job: Job) -> nn.Module:
    """Load the network from an exported file."""
    if path.suffix in runtimes.SUFFIXES:
        return runtimes.load(path)
    if path.is_dir():
        return from_checkpoint(checkpoints.load(path / REID_WEIGHTS))
    return from_checkpoint(checkpoints.load(path))


def boxmot_sidecar(job: Job) -> dict:
    """The content of NAME.metadata.json, from which BoxMOT reads the input size of ONNX and TorchScript files.

    BoxMOT normalises images itself. A file that does so too gets an unknown key here, which BoxMOT rejects and prints.
    """
    checkpoint = job.checkpoint
    size = [checkpoint.height, checkpoint.width]
    kwargs = {"img_size": size}
    if job.inside:
        kwargs = {"the file normalises its images, as BoxMOT does: export it with --for boxmot": True}
    found = {"schema_version": 1, "model_name": checkpoint.arch, "num_classes": 1, "preprocess": "resize"}
    return found | {"img_size": size, "model_kwargs_schema_version": 1, "model_kwargs": kwargs}


@torch.inference_mode()
def differences(net: nn.Module, reference: nn.Module, pixels: Tensor) -> Tensor:
    """(N,) cosine distances between two networks' vectors of images (N, 3, H, W) uint8."""
    images = normalize(pixels)
    wanted, found = unit_rows(reference.embed(images)), unit_rows(net.embed(images))
    return (wanted - found).square().sum(1) / 2  # 1 - cosine of unit rows, without cancellation


def retrieval(net: nn.Module, data: layouts.ReIDData, checkpoint: checkpoints.Checkpoint) -> tuple[float, float]:
    """Rank-1 and mAP of a network on a dataset's query and gallery, as fractions of 1."""
    query, gallery = (
        PersonImages(people, checkpoint.height, checkpoint.width) for people in (data.query, data.gallery)
    )
    found = test_features(net, query, gallery, single_process("cpu"))
    metrics = protocols.metrics(features_file.check(found))
    return metrics["rank1"], metrics["mAP"]


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Write a trained network in the formats that trackers load.")
    add = parser.add_argument
    add_network_flags(parser, exported=False)
    add(
        "--for",
        choices=sorted(HOSTS),
        dest="host",
        help="write the file that this program loads; sets --format and --normalize",
    )
    add("--format", nargs="+", choices=sorted(FORMATS), default=["onnx"], help="formats to write")
    add("--output", type=Path, default=Path("export"), help="folder for the files")
    inside = (
        "where ImageNet's mean and standard deviation are applied: outside, before images enter, or inside the file"
    )
    add("--normalize", choices=("outside", "inside"), default="outside", help=inside)
    add("--flip", action="store_true", help="average each vector with that of the mirror image; takes twice the time")
    add("--half", action="store_true", help="store ckpt, boxmot and reid files in float16: half the size")
    add(
        "--data-dir",
        type=Path,
        help="dataset on which to measure each file, and to calibrate int8 with (default: drawn people, no measuring)",
    )
    add("--calibration-images", type=positive, default=256, help="number of training images for int8 calibration")
    return parser


def main(args) -> None:
    args.weights = default_weights.choose(args.weights)
    checkpoint = checkpoints.load(args.weights).with_input(args.height, args.width, args.last_stride)
    for doubt in checkpoint.doubts():
        print(f"note: {doubt}")
    formats, place = files_wanted(args, checkpoint)
    data = layouts.find(args.data_dir) if args.data_dir else None
    count = args.calibration_images if "onnx-int8" in formats else 1
    calibration = some_pixels(data.train or data.gallery, count, checkpoint) if data else drawn(count, checkpoint)
    job = Job(checkpoint, place == "inside", calibration, args.flip, args.half)
    count = COMPARED_IMAGES
    compared = some_pixels(data.query or data.train, count, checkpoint) if data else drawn(count, checkpoint)
    size = f"{checkpoint.height}x{checkpoint.width}"
    print(f"{args.weights}: {checkpoint.arch}, {size}, {job.net.feature_dim} features per crop")
    if threshold := thresholds.carried(checkpoint.extra):
        print(f"  max_dist {in_digits(threshold['max_dist'])}, the threshold of these weights, is saved in each file")
    measured = data is not None and data.can_evaluate
    if measured:
        print(f"  {'checkpoint':<12} " + "rank-1 {:.2%}  mAP {:.2%}".format(*retrieval(job.net, data, checkpoint)))
    refused = []
    with held(args.output):
        for name in formats:
            kind = size + ("_flip" if args.flip else "") + ("_inside" if job.inside else "")
            path = args.output / FORMATS[name].name.format(arch=checkpoint.arch, size=kind)
            try:
                line = export(name, job, path, compared, data if measured else None)
            except FolderLost:
                raise
            except InputError as error:  # concerns this format only: go on with the others
                refused.append(str(error))
                continue
            print(f"  {name:<12} {line}", flush=True)
    if refused:
        raise InputError("; ".join(refused))


def files_wanted(args, checkpoint: checkpoints.Checkpoint) -> tuple[list[str], str]:
    """The formats to write, and "outside" or "inside" for the normalisation."""
    if not args.host:
        return list(dict.fromkeys(args.format)), args.normalize
    if args.given & {"format", "normalize"}:
        raise InputError(f"--for {args.host}: sets --format and --normalize; leave these two out")
    name, place = HOSTS[args.host]
    if name == "boxmot" and (reason := not_of_boxmot(checkpoint)):
        print(f"note: {reason}; writing an ONNX file instead")
        name = "onnx"
    return [name], place


def export(name: str, job: Job, path: Path, compared: Tensor, data: layouts.ReIDData | None) -> str:
    """Write one format, verify its vectors, measure it on `data` if given, and rename it to `path`.

    Returns:
        the line to print.

    Raises:
        InputError: the format does not support the network or the flags.
        RunFailed: vectors differ from those of the checkpoint.
    """
    if job.flip and FORMATS[name].weights_only:
        raise InputError(f"--flip: {name} files have weights only, the tracker would have to flip; leave --flip out")
    if job.half and not FORMATS[name].weights_only:
        raise InputError(f"--half: not possible for {name} files, only for ckpt, boxmot and reid; leave --half out")
    with explained(path), beside(path, replace=FORMATS[name].folder) as unproven:
        FORMATS[name].write(job, unproven)
        net = load_back(unproven, job)
        apart = differences(net, job.net, compared)
        line = f"cosine difference at most {apart.max():.1e}, {apart.mean():.1e} on average"
        if not apart.max() <= FORMATS[name].tolerance:
            raise RunFailed(
                f"--format {name}: wrong vectors: {line}; allowed are {FORMATS[name].tolerance:.0e}. Nothing was "
                "written"
            )
        if data is not None:
            line += "  rank-1 {:.2%}  mAP {:.2%}".format(*retrieval(net, data, job.checkpoint))
    if path.suffix in runtimes.SUFFIXES:
        write_text(path.with_name(f"{path.name}.metadata.json"), json.dumps(boxmot_sidecar(job), indent=1) + "\n")
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    return f"{line}  {size / 2**20:.1f} MB -> {path}"


def some_pixels(samples: list[layouts.Sample], count: int, checkpoint: checkpoints.Checkpoint) -> Tensor:
    """`count` images, evenly spaced in `samples` (fewer if there are fewer samples): (N, 3, H, W) uint8."""
    count = min(count, len(samples))
    chosen = [samples[number * len(samples) // count] for number in range(count)]
    images = PersonImages(chosen, checkpoint.height, checkpoint.width)
    return torch.cat(list(stream_pixels(images, fixed_batches(count, 64), decoders())))


def drawn(count: int, checkpoint: checkpoints.Checkpoint) -> Tensor:
    """`count` images of synthetic people, (N, 3, H, W) uint8; nothing is written to disk."""
    images = (pil_to_tensor(image) for image in sample.some_images(count))
    return torch.stack([resize(image, checkpoint.height, checkpoint.width) for image in images])


if __name__ == "__main__":
    cli.run(main, get_args_parser())
