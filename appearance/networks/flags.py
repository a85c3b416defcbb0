"""The flags that choose a network, and give what its file may not contain: input size, last stride, normalisation."""

from pathlib import Path

from appearance import cli
from appearance.flags import positive
from appearance.networks import runtimes


def add_network_flags(parser: cli.ArgumentParser, exported: bool = True) -> None:
    """`--weights`, `--height`, `--width`, `--last-stride`, and with `exported` `--normalize`.

    Args:
        exported: ONNX and TorchScript files are allowed besides checkpoints.
    """
    add = parser.add_argument
    kinds = "checkpoint, ONNX or TorchScript file" if exported else "checkpoint of any known kind"
    add("--weights", type=Path, help=f"{kinds} (default: checkpoint/best.pth or that in weights/)")
    for side, other, otherwise in (("height", "width", 128), ("width", "height", 64)):
        help = f"input {side} in pixels (default: in proportion to --{other}, "
        add(f"--{side}", type=positive, help=f"{help}else as --weights, else {otherwise})")
    add(
        "--last-stride",
        type=int,
        choices=(1, 2),
        help="stride of the last stage, for ResNet and MobileNetV2 files that do not say it",
    )
    if exported:
        add("--normalize", choices=runtimes.NORMALIZE, help=runtimes.NORMALIZE_HELP)
