"""Extract query and gallery features of a trained network: checkpoint + dataset -> `features.pth`.

    python test.py                                  the sample dataset with checkpoint/best.pth, else weights/
    python test.py --data-dir ROOT --weights FILE   your dataset and network
    torchrun --nproc_per_node=N test.py ...         on N GPUs, with the same result

`python evaluate.py` reads the file. (Run this file as a script; `import test` imports Python's own package `test`.)
"""

import os
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn

from appearance import cli
from appearance.cli import InputError
from appearance.data import prepare, provenance
from appearance.data.check import summary
from appearance.failures import explained_failures
from appearance.files import FolderLost, held, save_elsewhere
from appearance.flags import count, positive
from appearance.machine import decoders
from appearance.measure import features_file, protocols
from appearance.measure.embed import test_features
from appearance.networks import checkpoints, default_weights, runtimes, thresholds
from appearance.networks.flags import add_network_flags
from appearance.networks.inference import BothDirections
from appearance.networks.precision import emulation_warning
from datasets import PersonImages
from model import from_checkpoint
from utils import World, current_world

LARGEST_TOLD = 1e6  # larger epochs or accuracies in a file are nonsense and not printed


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Extract query and gallery features with a trained network.")
    add = parser.add_argument
    add("--data-dir", type=Path, help="dataset folder with query and gallery (default: the sample dataset)")
    add_network_flags(parser)
    add(
        "--output",
        default="features.pth",
        help="features file to write: .pth, .npz, or a folder (for more images than memory holds)",
    )
    add("--batch_size", type=positive, default=128, help="images per forward pass")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    add("--gpu_id", type=count, default=0, help="number of the GPU")
    add(
        "--skip-bad-images",
        action="store_true",
        help="leave out unreadable images and print how many, instead of stopping",
    )
    add("--workers", type=count, default=decoders(), help="threads that decode images")
    add("--amp", choices=("fp32", "bf16", "fp16"), default="fp32", help="number format of the network")
    add("--flip", action="store_true", help="average each vector with that of the mirror image; takes twice the time")
    return parser


@explained_failures("lower --batch_size")
def main(args) -> None:
    world = current_world(args.device, args.gpu_id)
    say = partial(print, flush=True) if world.is_main else (lambda *_: None)
    args.weights = default_weights.choose(args.weights, say)
    world.agree_on_flags(args)
    if world.is_main:
        features_file.check_place(args.output)
    with held(Path(args.output).parent) if world.is_main else nullcontext():
        extract(args, world, say)
    world.barrier()
    world.leave()


def extract(args, world: World, say) -> None:
    """Extract features and write the features file; `say` prints on rank 0."""
    checkpoint, net = load_network(args)
    height, width = checkpoint.height, checkpoint.width
    trained_on = provenance.of_checkpoint(checkpoint.extra)
    say(f"{args.weights}: {checkpoint.arch}, {height}x{width}" + _described(checkpoint))
    say(f"  {provenance.sentence(trained_on)}")
    for doubt in checkpoint.doubts():
        say(f"note: {doubt}")
    data = prepare.for_testing(args, world)
    say(summary(data))
    if slow := emulation_warning(args.amp, world.device):
        say(slow)

    started = time.perf_counter()
    found = test_features(
        BothDirections(net) if args.flip and not getattr(net, "flip", False) else net,
        PersonImages(data.query, height, width),
        PersonImages(data.gallery, height, width),
        world,
        batch_size=args.batch_size,
        precision=args.amp,
        workers=args.workers,
    )
    if found is not None:
        for side in ("q_paths", "g_paths"):
            found[side] = [os.path.abspath(path) for path in found[side]]  # for readers in any working directory
        found["meta"] = {
            "data_dir": os.path.abspath(data.root),
            "layout": data.layout,
            "by_session": data.by_session,
            "names": _names(data),
            "weights": str(args.weights),
            "arch": checkpoint.arch,
            "epoch": int(checkpoint.extra.get("epoch") or 0),
            "height": height,
            "width": width,
            "precision": args.amp,
            "flip": args.flip,
            "fingerprint": thresholds.fingerprint(checkpoint.net_dict) if checkpoint.net_dict else "",
            "max_dist": thresholds.start(checkpoint.extra),
            **_people_met(checkpoint, trained_on, data, args.workers),
        }
        _save(args.output, found)
        seconds = time.perf_counter() - started
        images = len(data.query) + len(data.gallery)
        say(f"{images:,} images in {seconds:.1f} s ({images / seconds:,.0f} img/s) -> {args.output}")
        say(f"Next: {_next_step(args.output, found)}")


def load_network(args) -> tuple[checkpoints.Checkpoint, nn.Module]:
    """The checkpoint of `--weights` (for ONNX and TorchScript with metadata only), and its network.

    Raises:
        InputError: the file cannot be loaded, or flags do not fit its kind.
    """
    if runtimes.is_graph(args.weights):
        if args.amp != "fp32":
            raise InputError(f"--amp {args.amp}: the number format of {args.weights} is fixed; leave --amp out")
        net = runtimes.load(args.weights, args.height, args.width, args.normalize)
        size = {"height": net.height, "width": net.width}
        checkpoint = checkpoints.Checkpoint(args.weights, {}, net.arch, None, **size, extra=net.threshold)
        return checkpoint, net
    if args.normalize:
        raise InputError(
            f"--normalize: only for ONNX and TorchScript files; {args.weights} is a checkpoint, leave the flag out"
        )
    checkpoint = checkpoints.load(args.weights).with_input(args.height, args.width, args.last_stride)
    return checkpoint, from_checkpoint(checkpoint)


def _save(output: str, found: dict) -> None:
    """Write the features file, or if its folder was deleted or unmounted, another one.

    Raises:
        InputError: the folder was lost; says where the features are.
    """
    try:
        features_file.save(output, found)
    except FolderLost as lost:
        path = Path(output)
        folder = save_elsewhere(path.stem, lambda folder: features_file.save(folder / path.name, found))
        saved = f"saved as {folder / path.name} instead" if folder else "the features are lost, run test.py again"
        raise InputError(f"--output {lost}; {saved}") from None


def _names(data) -> dict[str, str]:
    """{identity number as text: its name in folders or files} of the test identities."""
    people = {sample.pid for sample in data.tested()}
    return {str(pid): data.names[pid] for pid in sorted(people) if pid in data.names}


def _people_met(checkpoint: checkpoints.Checkpoint, trained_on: dict | None, data, workers: int) -> dict:
    """Entries of `meta`: the network's training data, and how many test identities are from it; {} if unknown."""
    if trained_on is None:
        return {}
    names = checkpoint.extra.get("class_names")
    met = provenance.people_met(trained_on, names if isinstance(names, list) else [], data, workers)
    return {"trained_on": trained_on["sets"], "identities_trained_on": len(met)}


def _next_step(output: str, found: dict) -> str:
    """The command for evaluating the features, with the protocol for one camera if necessary."""
    words = [] if output == "features.pth" else [output]
    protocol, gap, _ = protocols.fitting("market1501", features_file.check(found))
    if gap is not None:
        words += ["--protocol", protocol, "--gap", gap]
    return cli.command("evaluate.py", *words)


def _described(checkpoint: checkpoints.Checkpoint) -> str:
    told = [f"{checkpoint.num_classes:,} classes"] if checkpoint.num_classes else ["no classifier"]
    for key, form in (("epoch", "epoch {}"), ("acc", "validation accuracy {:.1f} %")):
        value = checkpoint.extra.get(key)
        if isinstance(value, int | float) and abs(value) < LARGEST_TOLD:  # nor is it NaN
            told.append(form.format(value))
    return f" ({', '.join(told)})"


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    cli.run(main, get_args_parser())
