"""The command-line conventions: flag spelling, exit codes, one-line errors."""

import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line_error, call_script, load_script

from appearance import cli


def parser():
    parser = cli.ArgumentParser(prog="tool")
    parser.add_argument("--batch_size", type=int, default=8, help="b")
    parser.add_argument("--data-dir", default="data", help="d")
    parser.add_argument("--syncBN", action="store_true", help="s")
    return parser


@pytest.mark.parametrize("flag", ["--batch_size", "--batch-size"])
def test_underscores_and_dashes_are_both_accepted(flag):
    assert parser().parse_args([flag, "3"]).batch_size == 3
    assert parser().parse_args([f"{flag}=4"]).batch_size == 4


def test_dashed_flag_is_accepted_with_underscore():
    assert parser().parse_args(["--data_dir", "x_y-z"]).data_dir == "x_y-z"


def test_values_keep_their_spelling():
    assert parser().parse_args(["--data-dir=a_b-c=d"]).data_dir == "a_b-c=d"


def test_given_holds_only_the_flags_of_the_command_line():
    assert parser().parse_args([]).given == set()
    assert parser().parse_args(["--batch-size", "8", "--syncBN"]).given == {"batch_size", "syncBN"}


def test_abbreviations_and_unknown_flags_are_refused(capsys):
    for arguments in (["--batch", "3"], ["--nonsense"], ["--batch_size", "three"]):
        with pytest.raises(SystemExit) as stopped:
            parser().parse_args(arguments)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("tool: error: ")


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (None, 0, ""),
        (cli.InputError("a.jpg: broken\n  badly"), 2, "tool: error: a.jpg: broken\\n  badly\n"),
        (cli.RunFailed("the loss is not finite"), 1, "tool: failed: the loss is not finite\n"),
        (KeyboardInterrupt(), 130, "\ntool: interrupted\n"),
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code, text):
    def main(args):
        if raised:
            raise raised

    monkeypatch.setattr(sys, "argv", ["tool"])
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as stopped:
        cli.run(main, parser())
    assert stopped.value.code == code
    assert capsys.readouterr().err == text


SCRIPTS = (
    "train.py",
    "train_multiGPU.py",
    "test.py",
    "evaluate.py",
    "datasets.py",
    "export.py",
    "feature_extractor.py",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_answers_help_and_refuses_unknown_flags(script, tmp_path):
    helped = call_script(script, "--help", cwd=tmp_path)
    assert (helped.code, helped.stderr) == (0, "")
    assert "usage:" in helped.stdout
    assert_one_line_error(call_script(script, "--no-such-flag", cwd=tmp_path), "--help")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_has_a_sentence(script):
    parsers = [load_script(script).get_args_parser()]
    if parsers[0]._subparsers:
        parsers = parsers[0]._subparsers._group_actions[0].choices.values()
    for action in (action for parser in parsers for action in parser._actions):
        assert len(action.help.split()) >= 3, action.dest


def test_a_closed_pipe_is_no_error(class_folders):
    command = f"{sys.executable} {ROOT / 'datasets.py'} check {class_folders} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
