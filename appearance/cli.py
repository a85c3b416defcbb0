"""What every command line here shares: one-line errors, exit codes and flag spelling."""

import argparse
import errno
import os
import shlex
import sys
import time
from difflib import get_close_matches
from pathlib import Path

EXIT_FAILED = 1  # the run itself failed, e.g. training diverged
EXIT_BAD_INPUT = 2  # a file, folder or flag is wrong
SCRIPTS = Path(__file__).resolve().parents[1]
FLAGS_IN_USAGE = 8  # more are left to the list below it
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # a disk that takes no more


class InputError(Exception):
    """The user's input is wrong: the message names the file or flag, what is wrong and what to do, on one line."""

    def __init__(self, message):
        super().__init__(one_line(message))  # it may quote a file


class RunFailed(Exception):
    """The input was fine, yet the run could not be finished (e.g. a loss that is not finite)."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows each flag's default, unless there is none to speak of or the sentence names it already."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with this collection's habits.

    A flag with an underscore is accepted with a dash as well (`--batch_size`, `--batch-size`), abbreviations are
    refused (a typo must not silently become another flag), and a usage error is one line. The parsed namespace has
    `given`, the set of destinations that were named on the command line, so that a recipe or a resumed run can fill in
    the others.
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
        """Words that stand behind a flag, apart from the others of their list: `A --flag 1 B`."""
        lists = [action.dest for action in self._get_positional_actions() if action.nargs == "+"]
        if lists and not any(word.startswith("-") for word in rest):
            getattr(parsed, lists[-1]).extend(rest)
            return []
        return rest

    def format_help(self) -> str:
        """A usage line that can be read at a glance: of many flags, none; the help lists them all."""
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
        """The flags that an unknown one may stand for, as far as spelling tells."""
        if not message.startswith("unrecognized arguments"):
            return ""
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        near = [match for word in unknown for match in get_close_matches(word, self._option_string_actions, n=1)]
        return f"; did you mean {', '.join(near)}?" if near else ""


def run(main, parser: argparse.ArgumentParser):
    """Parse the command line, call `main(args)` and leave with the right exit code; never returns."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    sys.stdout, sys.stderr = (s if isinstance(s, Lasting) else Lasting(s) for s in (sys.stdout, sys.stderr))
    args = parser.parse_args()
    try:
        main(args)
        sys.stdout.flush()
        code = 0
        if sys.stdout.error:
            code = EXIT_FAILED
            _complain(f"{parser.prog}: failed: standard output could not be written ({sys.stdout.error.strerror})")
    except InputError as error:
        code = EXIT_BAD_INPUT
        _complain(f"{parser.prog}: error: {one_line(error)}")
    except RunFailed as error:
        code = EXIT_FAILED
        _complain(f"{parser.prog}: failed: {one_line(error)}")
    except OSError as error:  # of a file: its name, permissions or disk
        if not error.filename and error.errno not in FULL:
            raise
        code = EXIT_BAD_INPUT
        _complain(f"{parser.prog}: error: {one_line(error.filename or 'a file')}: {error.strerror}")
    except KeyboardInterrupt:
        code = 130
        print(f"\n{parser.prog}: interrupted", file=sys.stderr)
    sys.exit(code)


class Lasting:
    """A stream that outlasts its reader and its disk, and shows what it is given as text.

    Where a reader closes it (`train.py | head`) or its disk is full, what follows is lost and the work goes on. Names
    and notes from files may hold control characters, which would move the terminal's cursor or worse: they are escaped.

    Attributes:
        error: what went wrong with writing, but for a reader who had enough.
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
            os.dup2(nowhere, self._stream.fileno())  # what is still in the buffer goes there, too
            os.close(nowhere)


def command(script: str, *words) -> str:
    """A line to paste that runs another of these scripts, where the running one was typed to be."""
    path = Path(sys.argv[0]).with_name(script) if sys.argv[0] else SCRIPTS / script
    return shlex.join(["python", str(path if path.is_file() else SCRIPTS / script), *map(str, words)])


def counted(number: int, one: str, several: str = "") -> str:
    """ "1 epoch", "1,000 epochs", "2 identities"; `several` where the plural is of another kind."""
    plural = several or (one[:-1] + "ies" if one.endswith("y") else one + "s")
    return f"{number:,} {one if number == 1 else plural}"


def _complain(line: str) -> None:
    """Print to stderr, once for a whole group of processes.

    What stops rank 0 usually stops the others with the same words. `torchrun` ends them as soon as it sees the first
    one fail, so a rank that waits a moment only speaks when the trouble was its own.
    """
    rank = int(os.environ.get("RANK", 0))
    if rank:
        time.sleep(5)
        line = f"[rank {rank}] {line}"
    print(line, file=sys.stderr, flush=True)


def one_line(text) -> str:
    """The text with line breaks and other control characters escaped: file names may hold them."""
    return escaped(str(text))


def escaped(text: str, but: str = "") -> str:
    """The text with what is no printable character, except for those of `but`, as Python writes it."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in but else repr(c)[1:-1] for c in text)
