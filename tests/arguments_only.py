"""Runs a script as far as its arguments are understood, once for each list of arguments.

    python arguments_only.py SCRIPT '[["--flag", "value"], ...]'

Prints a JSON list: for each of the lists None, or what the script says against it. The script runs as Python itself
would run it: under the name `__main__`, with its own folder first on the path.
"""

import argparse
import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path


class Understood(BaseException):
    """The arguments are: nothing more is to be done."""


def main(script: str, lists: list[list[str]]) -> list[str | None]:
    sys.path[0] = str(Path(script).parent)
    parse = argparse.ArgumentParser.parse_args

    def and_stop(*args, **options):
        parse(*args, **options)
        raise Understood

    argparse.ArgumentParser.parse_args = and_stop
    found = []
    for words in lists:
        sys.argv = [script, *words]
        told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        try:
            with contextlib.redirect_stderr(told):
                runpy.run_path(script, run_name="__main__")
            found.append("ended without a look at its arguments")
        except Understood:
            found.append(None)
        except SystemExit:
            told.seek(0)
            found.append(told.read().strip())
        except Exception:
            found.append(traceback.format_exc())
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
