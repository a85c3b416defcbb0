"""The default weights in `weights/`, trained on synthetic people only, for users who have not trained a network yet."""

from collections.abc import Callable
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "osnet_x1_0_reid.pt"
ARCH = "osnet_x1_0"
TRAINED = Path("checkpoint/best.pth")  # default output of `train.py`


def choose(given: Path | None, say: Callable[[str], None] = print) -> Path:
    """The weights to use: `given`, else `checkpoint/best.pth` if it exists, else the default weights (with a note)."""
    if given is None and not TRAINED.is_file() and WEIGHTS.is_file():
        say(f"note: no {TRAINED} here; using the default weights, trained on synthetic people only: {WEIGHTS}")
        return WEIGHTS
    return given or TRAINED


def how_to_make(arch: str) -> str:
    """The commands that train another architecture on synthetic people; only one file of weights is in `weights/`."""
    return (
        "python datasets.py draw data/drawn --identities 3000 --cameras 200 && "
        f"python train.py --model {arch} --data-dir data/drawn --height 64 --width 32 --epochs 10 --val-ratio 0 "
        f"--output drawn_{arch}   "
        f"then --weights drawn_{arch}/best.pth"
    )
