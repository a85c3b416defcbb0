"""Every command that the documents show is understood by the script it names; those of the README are run to the end.

Scripts run as a user runs them: in processes of their own, in another folder than the repository's, with nothing in the
environment that helps.
"""

import ast
import json
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from clean import environment, run_all
from conftest import ROOT, make_class_folders, make_market
from sequences import annotate, make_sequence
from torch.distributed.run import get_args_parser as torchrun_parser

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python|torchrun) [^`]+)`")
OTHERS = {"pip", "git", "ffmpeg", "mkdir", "export", "sed"}  # programs that are not ours


def blocks(page: str, *languages: str) -> list[str]:
    return [text for language, text in FENCED.findall((ROOT / page).read_text("utf-8")) if language in languages]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell text, without comments, variables that are set and placeholders."""
    lines = text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.shlex(line, posix=True, punctuation_chars=True)  # comments are left out
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", ";", "|"):
                found.append(command)
                command = []
            elif command or not re.match(r"[A-Z_]+=", word):
                command.append(word)
    return [command for command in found if command]


def documented() -> dict[str, list[list[str]]]:
    """Script -> the arguments of each of its commands, of all pages."""
    found = defaultdict(list)
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        inline = [part.replace("\n", " ") for part in INLINE.findall(FENCED.sub("", text))]
        shown = [
            *blocks(page, "bash"),
            *(part for part in inline if len(part.split()) > 3),
        ]  # not `python datasets.py crops`
        shown += [line for part in blocks(page, "") for line in part.splitlines() if line.startswith("python ")]
        for program, *words in (command for part in shown for command in commands(part)):
            if program in OTHERS or (program == "python" and words[0] == "-m"):
                continue
            assert program in ("python", "torchrun"), f"{page}: {program} {' '.join(words)}"
            place = next((n for n, word in enumerate(words) if word.endswith(".py")), None)
            if place is None:
                assert set(words) <= {"...", "benchmarks/...", "--max-restarts=3"}, f"{page}: {words}"
                continue
            if program == "torchrun":
                torchrun_parser().parse_args(words[: place + 1])
            arguments = [word.strip("[]") for word in words[place + 1 :] if word not in ("...", "[flags]")]
            if "..." in words and arguments and arguments[-1].startswith("--"):
                arguments.pop()  # `--variants ...`
            found[words[place]].append(arguments)
    return found


DOCUMENTED = documented()


def run(words: list, cwd: Path) -> str:
    """Run a command that must succeed; what it prints."""
    words = [sys.executable if word == "python" else str(word) for word in words]
    done = subprocess.run(
        words, cwd=cwd, env=environment() | {"HOME": str(cwd)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def complaints(lists: dict[str, list[list[str]]], folder: Path) -> list[str]:
    """What scripts say against lists of arguments, each script in a process of its own."""
    lines = [("tests/arguments_only.py", ROOT / script, json.dumps(some)) for script, some in lists.items()]
    found = []
    for (script, some), done in zip(lists.items(), run_all(lines, folder, folder / "printed"), strict=True):
        assert done.code == 0, f"{script}: {done.stderr}"
        for arguments, complaint in zip(some, json.loads(done.stdout), strict=True):
            found += [f"{script} {shlex.join(arguments)}: {complaint}"] if complaint else []
    return found


def test_the_arguments_of_documented_commands_are_understood(tmp_path):
    """And two that are not: a flag that is renamed on a page or in a script does not pass."""
    assert {"train.py", "train_multiGPU.py", "datasets.py", "export.py", "examples/track_mot.py"} <= set(DOCUMENTED)
    wrong = {"train.py": [["--epoch", "20"]], "evaluate.py": [["--calibrated"]]}
    lists = {script: some + wrong.get(script, []) for script, some in DOCUMENTED.items()}
    assert complaints(lists, tmp_path) == [
        f"{script} {shlex.join(words)}: {script}: error: unrecognized arguments: {shlex.join(words)}; "
        f"did you mean {meant}? (see --help)"
        for script, words, meant in (
            ("train.py", ["--epoch", "20"], "--epochs"),
            ("evaluate.py", ["--calibrated"], "--calibrate"),
        )
    ]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_the_pages_lead_somewhere():
    for page in (*PAGES, "weights/README.md"):
        text = (ROOT / page).read_text("utf-8")
        for link in re.findall(r"\]\((?!http)([^)\s]+)\)", text):
            name, _, anchor = link.partition("#")
            target = (ROOT / page).parent / name if name else ROOT / page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target.read_text("utf-8")), f"{page}: {link}"


# -- run to the end ----------------------------------------------------------------------------------------------------

TINY = ["--height", "32", "--width", "16", "--workers", "1", "--device", "cpu"]
SMALLER = {  # what is added to a documented command so that it ends within seconds
    "train.py": ["--epochs", "1", *TINY],
    "test.py": ["--device", "cpu", "--workers", "1"],
    "datasets.py crops": ["--min-height", "20", "--min-images", "2", "--test-ratio", "0.5"],
}


def block_after(heading: str, language: str = "bash") -> str:
    """The first block of the README that follows a heading."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert heading in text
    return next(part for kind, part in FENCED.findall(text.partition(heading)[2]) if kind == language)


def run_block(text: str, cwd: Path, data: Path | None = None) -> list[str]:
    """Run the commands of a block one after the other, made smaller; what each of them prints.

    Args:
        data: stands for the sample, which takes a while to draw.
    """
    printed = []
    for command in commands(text):
        if command[0] != "python":
            continue
        _, script, *words = command
        words += SMALLER.get(script, SMALLER.get(f"{script} {words[0]}" if words else "", []))
        if data and script in ("train.py", "test.py"):
            words += ["--data-dir", str(data)]
        printed.append(run(["python", ROOT / script, *words], cwd))
    return printed


def test_the_first_command_of_the_readme(tmp_path):
    data = make_market(tmp_path / "sample", train_ids=6, images=6)
    trained, tested, evaluated = run_block(block_after("## Quick start"), tmp_path, data)
    assert "-> best.pth" in trained
    assert "Next: " in tested
    assert re.search(r"^features +\d+\.\d+ +", evaluated, re.MULTILINE)
    assert (tmp_path / "cmc.png").is_file()


def test_the_second_command_of_the_readme_finds_the_tests():
    tests = commands(block_after("## Docs, tests, licence"))[-1]
    assert tests == ["python", "-m", "pytest"]
    found = run([*tests, "--collect-only", "-q", "-p", "no:cacheprovider", "-n", "0", "tests/test_optimizer.py"], ROOT)
    assert "tests/test_optimizer.py" in found


def test_own_data(tmp_path):
    make_class_folders(tmp_path / "people", identities=6, images=6)
    checked, split, trained, tested, evaluated = run_block(block_after("## Your own people"), tmp_path)
    assert re.search(r"train +6 +36 +2", checked)
    assert "Next: " in split
    assert "-> best.pth" in trained
    assert "runs/people/features.pth" in tested
    assert "max_dist 0." in evaluated


def test_own_video(tmp_path):
    for name in ("WALK", "WALK2"):
        annotate(make_sequence(tmp_path / name, frames=200), frames=200)
    cut, trained, tested, evaluated, tracked = run_block(block_after("## Your own video"), tmp_path)
    assert re.search(r"Next: .*train\.py --data-dir video_crops --weights drawn .*--output runs/video_crops\n", cut)
    assert "-> best.pth" in trained
    assert re.search(r"Next: .*evaluate\.py runs/video/features\.pth --protocol reappear --gap \d+\n", tested)
    assert "at least this many frames apart" in evaluated
    assert "IDF1" in tracked
    rows = np.loadtxt(tmp_path / "tracks" / "WALK2.txt", delimiter=",")
    assert len(np.unique(rows[:, 0])) > 30


def test_export_and_extractor(tmp_path):
    """The README's and the tracker page's Python, in a program that lies elsewhere, on frames of its own."""
    exported = run(
        ["python", ROOT / "export.py", "--format", "onnx", "--data-dir", make_market(tmp_path / "m")], tmp_path
    )
    (written,) = (tmp_path / "export").glob("*.onnx")
    assert str(written.name) in exported
    found_by_name = next(text for text in blocks("docs/trackers.md", "python") if "sys.path.append" in text)
    readme = next(text for text in blocks("README.md", "python") if "vectors = extractor(crops)" in text)
    lines = [line for text in blocks("docs/trackers.md", "python") for line in text.splitlines()]
    encode = next(line for line in lines if ".encode(" in line)
    program = f"""
import numpy as np
{found_by_name.replace("path/to/this/folder", str(ROOT))}
frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
boxes = np.array([[5, 5, 20, 50], [60, 10, 30, 80]])
crops = [frame[5:55, 5:25], frame[10:90, 60:90]]
{readme}
assert vectors.shape == (2, 512) and abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
{encode}
assert vectors.shape == (2, 512)
extractor = Extractor({str(written)!r})
{encode}
assert vectors.shape == (2, 512)
print("understood")
"""
    (tmp_path / "program.py").write_text(program)
    assert run(["python", "program.py"], tmp_path).endswith("understood\n")


def test_what_python_on_the_pages_imports_from_us_is_there(tmp_path):
    ours = {path.stem for path in ROOT.glob("*.py")} | {"appearance"}
    lines = set()
    for page in PAGES:
        for text in blocks(page, "python"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ours:
                    lines.add(ast.unparse(node))
    assert "from feature_extractor import Extractor" in lines
    program = "\n".join(["import sys", f"sys.path.append({str(ROOT)!r})", *sorted(lines)])
    run(["python", "-c", program], tmp_path)
