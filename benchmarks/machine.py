"""What a figure was measured on, and how it is told: shared by the benchmarks."""

import datetime
import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

from appearance.files import write_text


def machine(device: torch.device | str = "cpu") -> dict:
    """Hardware, threads, torch version, date, and the load average (1, 5, 15 minutes) before the measurement."""
    return {
        "hardware": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def processor() -> str:
    """The CPU's name where the system tells it."""
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        rows = []
    names = [row.split(":", 1)[1].strip() for row in rows if row.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else "CPU"


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked, before reading the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def publish(result: dict, path: Path | None) -> None:
    """Print a result as JSON, and write it to `path` if there is one."""
    keep(result, path)
    print(json.dumps(result, indent=1))


def keep(result: dict, path: Path | None) -> None:
    """Write a result as JSON to `path` if there is one."""
    if path:
        write_text(path, json.dumps(result, indent=1) + "\n")
