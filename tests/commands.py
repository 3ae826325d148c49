"""Running the command line programs: as a person does, or without starting Python again."""

import contextlib
import importlib
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock


def run(program, *line, timeout=250, **kwargs):
    """In a process of its own."""
    path = Path(sys.executable).with_name(program)
    command = [str(path), *map(str, line)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **kwargs)


def run_here(program, *line):
    """In this one, for mistakes that end before anything is computed: torch alone takes seconds to import."""
    main = importlib.import_module(f"ottt_loihi.cli.{program.removeprefix('ottt-')}").main
    out, err, code = io.StringIO(), io.StringIO(), 0
    arguments = mock.patch.object(sys, "argv", [program, *map(str, line)])
    with arguments, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def assert_one_line(done, code, *says):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for words in says:
        assert words in " ".join(done.stderr.split()), done.stderr
