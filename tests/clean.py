"""Scripts as users start them: each in a process of its own, in any folder, with nothing of the tests' environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from conftest import ROOT

# Imports torch once, then forks a process for each script that stands in its place: what `python SCRIPT ...` does,
# without the three seconds that torch takes to import. Nothing of the collection is imported before.
START = """
import json, os, runpy, sys, traceback
import matplotlib.pyplot, numpy, torch, torchvision.transforms.v2, tqdm
commands, folder = json.loads(sys.stdin.read()), sys.argv[1]
for number, (script, *args) in enumerate(commands):
    if not (process := os.fork()):
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv, sys.path[0] = [script, *args], os.path.dirname(script)
        code = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stopped:
            code = stopped.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)  # or the next child prints it again
"""


def environment() -> dict[str, str]:
    """Nothing but what finds programs and the home folder."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "OMP_NUM_THREADS": "1"}


def run_all(commands, cwd: Path, into: Path, timeout: float = 120) -> list[SimpleNamespace]:
    """Exit code, stdout and stderr of each of the commands (script and arguments), run in `cwd` one after the other.

    Args:
        into: a folder for what they print.
    """
    into.mkdir(parents=True, exist_ok=True)
    lines = [[str(ROOT / script), *map(str, args)] for script, *args in commands]
    done = subprocess.run(
        [sys.executable, "-c", START, str(into)],
        input=json.dumps(lines),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stdout.split()]
    texts = [[(into / f"{n}.{name}").read_text() for name in ("out", "err")] for n in range(len(codes))]
    return [SimpleNamespace(code=c, stdout=out, stderr=err) for c, (out, err) in zip(codes, texts, strict=True)]
