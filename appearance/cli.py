"""Shared by all command lines: one-line errors, exit codes, flag spelling."""

import argparse
import errno
import os
import shlex
import sys
import time
from difflib import get_close_matches
from pathlib import Path

EXIT_FAILED = 1  # the run failed, for example because training diverged
EXIT_BAD_INPUT = 2  # a file, folder or flag is wrong
SCRIPTS = Path(__file__).resolve().parents[1]
FLAGS_IN_USAGE = 8  # with more flags the usage line does not list them
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # disk full or broken


class InputError(Exception):
    """Wrong user input. The message is one line: the file or flag, the problem, and what to do."""

    def __init__(self, message):
        super().__init__(one_line(message))  # file names may contain line breaks


class RunFailed(Exception):
    """A failure of the run with correct input, for example a loss that is not finite."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Append a flag's default to its help, unless it is None or False or the help text has it."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with some changes.

    - Underscores and dashes in flags are the same (`--batch_size`, `--batch-size`).
    - Abbreviations are refused, so that a typo does not become another flag.
    - Usage errors are one line.
    - The namespace has `given`, the set of destinations on the command line, so that a recipe or a resumed run can fill
      in the others.
    """

    def __init__(self, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(**kwargs)

    def parse_known_args(self, args=None, namespace=None):
        args = [self._spelling(arg) for arg in (sys.argv[1:] if args is None else args)]
        parsed, rest = super().parse_known_args(args, namespace)
        if not self._subparsers:
            unset = object()
            probe = argparse.Namespace(**{action.dest: unset for action in self._actions})
            super().parse_known_args(args, probe)
            parsed.given = {name for name, value in vars(probe).items() if value is not unset}
            rest = self._collected(parsed, rest)
        return parsed, rest

    def _collected(self, parsed: argparse.Namespace, rest: list[str]) -> list[str]:
        """Add positional words after a flag to the list of positionals: `A --flag 1 B`."""
        lists = [action.dest for action in self._get_positional_actions() if action.nargs == "+"]
        if lists and not any(word.startswith("-") for word in rest):
            getattr(parsed, lists[-1]).extend(rest)
            return []
        return rest

    def format_help(self) -> str:
        """The help, with a usage line that says [flags] if there are many."""
        flags = [action for action in self._actions if action.option_strings]
        if self.usage is None and len(flags) > FLAGS_IN_USAGE and not self._subparsers:
            words = [action.metavar or action.dest for action in self._actions if not action.option_strings]
            self.usage = " ".join(["%(prog)s", "[flags]", *(f"[{word} ...]" for word in words)])
        return super().format_help()

    def _spelling(self, arg: str) -> str:
        if not arg.startswith("--"):
            return arg
        name, equals, value = arg.partition("=")
        for known in (name, name.replace("-", "_").replace("__", "--", 1), name.replace("_", "-")):
            if known in self._option_string_actions:
                return known + equals + value
        return arg

    def error(self, message: str):
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message}{self._meant(message)} (see --help)\n")

    def _meant(self, message: str) -> str:
        """A "did you mean" hint for unknown flags, "" if nothing is similar."""
        if not message.startswith("unrecognized arguments"):
            return ""
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        near = [match for word in unknown for match in get_close_matches(word, self._option_string_actions, n=1)]
        return f"; did you mean {', '.join(near)}?" if near else ""


def run(main, parser: argparse.ArgumentParser):
    """Parse the command line, call `main(args)` and exit with the exit code. Never returns."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # for file names that the terminal cannot show
    sys.stdout, sys.stderr = (s if isinstance(s, Lasting) else Lasting(s) for s in (sys.stdout, sys.stderr))
    args = parser.parse_args()
    try:
        main(args)
        sys.stdout.flush()
        code = 0
        if sys.stdout.error:
            code = EXIT_FAILED
            _complain(f"{parser.prog}: failed: cannot write to standard output ({sys.stdout.error.strerror})")
    except InputError as error:
        code = EXIT_BAD_INPUT
        _complain(f"{parser.prog}: error: {one_line(error)}")
    except RunFailed as error:
        code = EXIT_FAILED
        _complain(f"{parser.prog}: failed: {one_line(error)}")
    except OSError as error:  # about a file or a full disk; anything else is a bug
        if not error.filename and error.errno not in FULL:
            raise
        code = EXIT_BAD_INPUT
        _complain(f"{parser.prog}: error: {one_line(error.filename or 'a file')}: {error.strerror}")
    except KeyboardInterrupt:
        code = 130
        print(f"\n{parser.prog}: interrupted", file=sys.stderr)
    sys.exit(code)


class Lasting:
    """A wrapper of stdout or stderr that never raises on writing, and escapes control characters.

    If the pipe is closed (`train.py | head`) or the disk is full, further output is dropped and the run continues.
    Names from files may contain control characters that would manipulate the terminal, so they are escaped.

    Attributes:
        error: the OSError of a failed write; None if the pipe was closed, or all is well.
    """

    def __init__(self, stream):
        self._stream, self.error = stream, None

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._unless_closed(self._stream.write, escaped(text, but="\n\r\t")) or len(text)

    def flush(self) -> None:
        self._unless_closed(self._stream.flush)

    def _unless_closed(self, action, *args):
        try:
            return action(*args)
        except OSError as error:
            self.error = None if isinstance(error, BrokenPipeError) else error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # also drops the buffered rest
            os.close(nowhere)


def command(script: str, *words) -> str:
    """A shell command that runs another script, with the folder as the user typed it for the running script."""
    path = Path(sys.argv[0]).with_name(script) if sys.argv[0] else SCRIPTS / script
    return shlex.join(["python", str(path if path.is_file() else SCRIPTS / script), *map(str, words)])


def counted(number: int, one: str, several: str = "") -> str:
    """ "1 epoch", "1,000 epochs", "2 identities". `several`: an irregular plural."""
    plural = several or (one[:-1] + "ies" if one.endswith("y") else one + "s")
    return f"{number:,} {one if number == 1 else plural}"


def _complain(line: str) -> None:
    """Print an error to stderr, usually once for all ranks.

    Most errors occur on all ranks. `torchrun` ends the other ranks when one fails, so ranks other than 0 wait first and
    print only an error of their own.
    """
    rank = int(os.environ.get("RANK", 0))
    if rank:
        time.sleep(5)
        line = f"[rank {rank}] {line}"
    print(line, file=sys.stderr, flush=True)


def one_line(text) -> str:
    """The text with line breaks and other control characters escaped."""
    return escaped(str(text))


def escaped(text: str, but: str = "") -> str:
    """The text with non-printable characters, except those in `but`, as Python escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in but else repr(c)[1:-1] for c in text)
