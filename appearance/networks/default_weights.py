"""The network that comes with the collection, trained on drawn people alone: for whoever has trained none yet."""

from collections.abc import Callable
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "osnet_x1_0_reid.pt"
ARCH = "osnet_x1_0"
TRAINED = Path("checkpoint/best.pth")  # where `train.py` leaves one


def choose(given: Path | None, say: Callable[[str], None] = print) -> Path:
    """The file to work with: the one that is named, else what `train.py` left, else the one that comes along."""
    if given is None and not TRAINED.is_file() and WEIGHTS.is_file():
        say(f"note: no {TRAINED} here, so this is the network of drawn people that comes along, {WEIGHTS}")
        return WEIGHTS
    return given or TRAINED


def how_to_make(arch: str) -> str:
    """The commands that make the like of it for another architecture, which would be too large to come along."""
    return (
        "python datasets.py draw data/drawn --identities 3000 --cameras 200 && "
        f"python train.py --model {arch} --data-dir data/drawn --height 64 --width 32 --epochs 10 --val-ratio 0 "
        f"--output drawn_{arch}   "
        f"then --weights drawn_{arch}/best.pth"
    )
