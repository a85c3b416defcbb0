"""Do trackers get our vectors? Each program that is installed describes drawn people with a file of ours.

    python benchmarks/hosts.py                            the light network in weights/
    python benchmarks/hosts.py --deep-sort-pytorch DIR    and weights/ckpt.t7 in deep_sort_pytorch's own Extractor

A program cuts out boxes and resizes them its own way, so its vectors differ a little from those of `Extractor`. Printed
are the cosine distances between the two, and of how many crops the nearest other crop is the same by both. For each
program also the file that it must not be given, and what comes of it: an error, or vectors that are wrong.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import scene
import track_mot
from machine import machine, publish

import export
from appearance import cli
from appearance.flags import count, positive
from appearance.networks import default_weights
from feature_extractor import Extractor

Way = Callable[[np.ndarray, np.ndarray], np.ndarray]  # BGR frame, boxes (n, 4) left, top, width, height -> (n, D)


def exported(weights: Path, folder: Path, *flags: str) -> Path:
    """The file that `export.py` writes with these flags."""
    arguments = ["--weights", str(weights), "--output", str(folder / "-".join(flags).strip("-")), *flags]
    export.main(export.get_args_parser().parse_args(arguments))
    (path,) = (one for one in Path(arguments[3]).iterdir() if not one.name.endswith(".json"))
    return path


def crops_of(frame: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """What each box shows."""
    whole = track_mot.corners(boxes, *frame.shape[1::-1])
    return [frame[top:bottom, left:right] for left, top, right, bottom in whole]


def corners(boxes: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom."""
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


# ---------------------------------------------------------------------------------------------------------------------
# Programs: each takes weights and a folder for files, and returns its way from boxes to vectors


def deep_sort_realtime(file: Path) -> Way:
    from deep_sort_realtime.deepsort_tracker import DeepSort

    tracker = DeepSort(embedder=None)
    tracker.embedder = Extractor(file, use_cuda=False)
    return lambda frame, boxes: np.array(tracker.generate_embeds(frame, [(box, 1.0, "person") for box in boxes]))


def deep_sort(file: Path) -> Way:
    return Extractor(file, use_cuda=False).encode


def boxmot(file: Path) -> Way:
    from boxmot.reid.core.runtime import ReID

    model = ReID(file, device="cpu")
    return lambda frame, boxes: model(frame, corners(boxes))


def ultralytics(file: Path) -> Way:
    from ultralytics.trackers.utils.reid import ReID

    encoder = ReID(str(file), device="cpu")
    # centre and size
    return lambda frame, boxes: np.array(encoder(frame, np.hstack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]])))


def reid(file: Path) -> Way:
    import supervision
    from reid import ReIDModel

    model = ReIDModel.from_pretrained(str(file), device="cpu")
    return lambda frame, boxes: model.extract_embeddings(supervision.Detections(xyxy=corners(boxes)), frame)


def norfair(file: Path) -> Way:
    import norfair

    extractor = Extractor(file, use_cuda=False)

    def way(frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        vectors = extractor(crops_of(frame[:, :, ::-1], boxes))
        pairs = zip(corners(boxes).reshape(-1, 2, 2), vectors, strict=True)
        return np.array([norfair.Detection(points, embedding=vector).embedding for points, vector in pairs])

    return way


def onnxruntime(file: Path) -> Way:
    """Any other program: five lines of numpy."""
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[2:]

    def way(frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        crops = [Image.fromarray(crop).resize((width, height), 2) for crop in crops_of(frame[:, :, ::-1], boxes)]
        images = np.stack(crops).astype(np.float32).transpose(0, 3, 1, 2) / 255  # RGB from 0 to 1
        return session.run(None, {"images": images})[0]

    return way


def deep_sort_pytorch(folder: Path, evaluating: bool = True) -> Callable[[Path], Way]:
    """Its own Extractor, from a folder with the program; as it is, or with the network in eval mode."""

    def of_file(file: Path) -> Way:
        sys.path.insert(0, str(folder / "deep_sort"))
        from deep.feature_extractor import Extractor as Theirs

        sys.path.pop(0)
        extractor = Theirs(str(file), use_cuda=False)
        if evaluating:
            extractor.net.eval()
        return lambda frame, boxes: extractor(crops_of(frame[:, :, ::-1], boxes))

    return of_file


# program, flags of export.py (none: the weights as they are), way
RIGHT = [
    ("deep-sort-realtime", (), deep_sort_realtime),
    ("deep_sort's encoder", (), deep_sort),
    ("boxmot", (), boxmot),
    ("boxmot", ("--for", "boxmot"), boxmot),
    ("boxmot", ("--format", "onnx"), boxmot),
    ("boxmot", ("--format", "torchscript"), boxmot),
    ("ultralytics", ("--for", "ultralytics"), ultralytics),
    ("reid", ("--for", "reid"), reid),
    ("norfair", (), norfair),
    ("onnxruntime", ("--format", "onnx", "--normalize", "inside"), onnxruntime),
]
WRONG = [
    ("boxmot", ("--format", "onnx", "--normalize", "inside"), boxmot),
    ("boxmot", ("--format", "torchscript", "--normalize", "inside"), boxmot),
    ("ultralytics", ("--format", "onnx"), ultralytics),
    ("ultralytics", ("--format", "torchscript"), ultralytics),
    ("ultralytics", ("--format", "torchscript", "--normalize", "inside"), ultralytics),
    ("onnxruntime", ("--format", "onnx"), onnxruntime),
]


def compare(way: Way, frames: list[tuple[np.ndarray, np.ndarray]], ours: np.ndarray) -> dict:
    """Median and largest cosine distance to our vectors, and the share of crops with the same nearest other crop."""
    rows = np.concatenate(
        [np.asarray(way(frame, boxes), np.float64).reshape(len(boxes), -1) for frame, boxes in frames]
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distance = 1 - (rows * ours).sum(1)
    nearest = [(one @ one.T - 3 * np.eye(len(one))).argmax(1) for one in (rows, ours)]
    return {
        "median": float(np.median(distance)),
        "largest": float(distance.max()),
        "same_nearest": float((nearest[0] == nearest[1]).mean()),
    }


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--weights", type=Path, default=default_weights.WEIGHTS, help="an OSNet's checkpoint")
    help = "a Net's checkpoint at 128x64, for deep_sort_pytorch's own Extractor"
    add("--net", type=Path, default=default_weights.WEIGHTS.with_name("ckpt.t7"), help=help)
    add("--deep-sort-pytorch", type=Path, metavar="DIR", help="folder with a clone of that program")
    add("--frames", type=positive, default=150, help="length of the drawn scene, of which each tenth frame counts")
    add("--seed", type=count, default=0, help="of the drawn scene")
    add("--json", type=Path, help="also save the figures as JSON")
    return parser


def main(args) -> None:
    if args.deep_sort_pytorch and not (args.deep_sort_pytorch / "deep_sort" / "deep").is_dir():
        raise cli.InputError(f"--deep-sort-pytorch {args.deep_sort_pytorch}: has no deep_sort/deep; give a clone of it")
    drawn = scene.record(args.seed, args.frames)
    pairs = list(zip(drawn.frames, drawn.detections, strict=True))[::10]
    frames = [(np.ascontiguousarray(frame[:, :, ::-1]), boxes) for frame, boxes in pairs if len(boxes)]
    cases = [(args.weights, *case) for case in RIGHT]
    if args.deep_sort_pytorch:
        own, training = (deep_sort_pytorch(args.deep_sort_pytorch, evaluating) for evaluating in (True, False))
        for flags in ((), ("--for", "deep_sort_pytorch")):
            cases.append((args.net, "deep_sort_pytorch", flags, own))
        cases.append((args.net, "deep_sort_pytorch without .eval()", (), training))
    cases += [(args.weights, f"{name} (wrong)", flags, way) for name, flags, way in WRONG]
    extractors = {weights: Extractor(weights, use_cuda=False) for weights, *_ in cases}
    ours = {
        weights: np.concatenate([extractor(crops_of(frame[:, :, ::-1], boxes)) for frame, boxes in frames]).astype(
            float
        )
        for weights, extractor in extractors.items()
    }
    print(f"{sum(len(boxes) for _, boxes in frames)} drawn crops, {args.weights}")
    print(f"  {'program':<34} {'version':<11} {'file':<36} {'median':>8} {'largest':>8} {'same nearest':>13}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for weights, name, flags, way_of in cases:
            package = name.split(" ")[0]
            row = {"program": name, "version": version_of(package), "export": " ".join(flags)}
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    file = exported(weights, Path(folder) / weights.stem, *flags) if flags else weights
                    row |= {"file": file.name} | compare(way_of(file), frames, ours[weights])
            except ImportError as error:
                row["error"] = f"{error}; pip install {package}"
            except Exception as error:  # what a program says to a wrong file is what is to be seen
                row["error"] = " ".join(str(error).split())[-160:]
            rows.append(row)
            print(line(row), flush=True)
    publish({"machine": machine(), "crops": len(ours[args.weights]), "rows": rows}, args.json)


def line(row: dict) -> str:
    head = f"  {row['program']:<34} {row['version']:<11} {row.get('file', row['export']):<36} "
    if "error" in row:
        return head + row["error"]
    return head + f"{row['median']:>8.4f} {row['largest']:>8.4f} {row['same_nearest']:>13.1%}"


if __name__ == "__main__":
    cli.run(main, get_args_parser())
