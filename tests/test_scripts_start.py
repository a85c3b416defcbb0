"""Every script of examples/ and benchmarks/ starts from any working directory, without the help of an environment."""

from clean import run_all
from conftest import ROOT

SCRIPTS = sorted(
    path.relative_to(ROOT) for folder in ("examples", "benchmarks") for path in (ROOT / folder).glob("*.py")
)
MODULES = {"baselines.py", "tracker.py", "identity_measures.py", "machine.py"}  # have nothing to do by themselves


def test_all_scripts_start(tmp_path):
    assert {path.name for path in SCRIPTS} > MODULES
    done = run_all([(path, "--help") for path in SCRIPTS], cwd=tmp_path, into=tmp_path / "printed")
    failed = {str(path): one.stderr for path, one in zip(SCRIPTS, done, strict=True) if one.code}
    assert not failed
    silent = {path.name for path, one in zip(SCRIPTS, done, strict=True) if "usage:" not in one.stdout}
    assert silent == MODULES


def test_the_line_that_finds_the_collection_is_the_same_in_all():
    line = "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection\n"
    others = [path for path in SCRIPTS if "sys.path" in (ROOT / path).read_text().replace(line, "")]
    assert [str(path) for path in others] == [
        "benchmarks/hosts.py",
        "benchmarks/track_table.py",
    ]  # use other folders as well
