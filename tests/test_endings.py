"""Whatever goes wrong ends in one line with an exit code; nothing is half-written, and the same command goes on."""

import ast
import errno
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from safetensors import SafetensorError

from ddspo import __main__, catalogue, files
from ddspo.cli import main
from ddspo.endings import Ending, Failed, ending
from ddspo.errors import LONGEST, Elsewhere, InputError, quoted, shortened
from ddspo.progress import Progress
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder

SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"


def failed(error: BaseException, folder: Path) -> Failed:
    """As a run raises it."""
    made = Failed(folder)
    made.__cause__ = error
    return made


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (InputError("x: wrong"), "x: wrong", 2),
        (KeyboardInterrupt(), "interrupted; run the same command again to continue", 130),
        (Elsewhere("process 1: KeyError: x"), "", 1),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "nobody reads the output any more", 1),
        (MemoryError(), "out of memory (no message): lower train.device_batch, sample.batch", 1),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nall"),
            "out of memory (CUDA out of memory. Tried): lower",
            1,
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory (DefaultCPU", 1),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "/a/b: No space left on device: make room on that",
            1,
        ),
        (OSError(errno.EFBIG, "File too large"), "File too large: files may not grow so large here (`ulimit -f`)", 1),
        (
            OSError(errno.EROFS, "Read-only file system", "/a"),
            "/a: Read-only file system: the disk takes no writing",
            1,
        ),
        (
            OSError(errno.EACCES, "Permission denied", "/a"),
            "/a: Permission denied: you may not: mend the permissions",
            1,
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "Too many open files: too many files are open (`ulimit -n`)",
            1,
        ),
        (
            SafetensorError("I/O error: No space left (os error 28)"),
            "I/O error: No space left (os error 28): make room",
            1,
        ),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_end_in_one_line(tmp_path: Path, error: BaseException, line: str, code: int) -> None:
    found = ending(failed(error, tmp_path))
    assert found.line.startswith(line)
    assert found.code == code
    assert found.line.isprintable()
    assert not list(tmp_path.iterdir())


def unexpected(text: str) -> KeyError:
    try:
        raise KeyError(text)
    except KeyError as error:
        return error


def test_what_nobody_expected_is_written_down(tmp_path: Path) -> None:
    found = ending(failed(unexpected("a\x1b[31m" + 9999 * "b"), tmp_path))
    (kept,) = tmp_path.iterdir()
    assert found.code == 1
    assert found.line.startswith("not expected: KeyError: 'a\\x1b[31mbbb")
    assert found.line.endswith(f": please report it with {kept}, which says where")
    assert found.line.isprintable()
    assert len(found.line) < 600
    assert 'in unexpected\n    raise KeyError(text)\nKeyError: "' in kept.read_text().replace("'", '"')


def test_where_it_is_written_if_the_run_takes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = ending(failed(unexpected("x"), tmp_path / "no such run"))
    (kept,) = tmp_path.iterdir()
    assert str(kept) in found.line
    monkeypatch.setattr(Path, "write_text", full)
    found = ending(failed(unexpected("x"), tmp_path / "no such run"))
    assert ": please report it; it was at " in found.line
    assert __file__ in found.line


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/some/file")


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command in this process, and what it said where errors are said."""
    monkeypatch.setattr(sys, "argv", ["ddspo", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "ddspo: interrupted\n"),
        (InputError("a: b"), 2, "ddspo: a: b\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "ddspo: nobody reads the output any more: it ends here\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "ddspo: No space left on device: make room"),
        (Elsewhere("theirs"), 1, ""),
        (KeyError("x"), 1, "ddspo: not expected: KeyError: 'x': please report it with "),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_command_ends_so(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def fail(kind: str) -> list[str]:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(catalogue, "names", fail)
    found, said = command(monkeypatch, capsys, "list")
    assert found == code
    assert said.startswith(line)
    assert said.count("\n") == bool(line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("lsit",), "no such command 'lsit': did you mean 'list'?: see `ddspo --help`"),
        (("show", "r.yaml", "--costs"), "no such option: --costs (Possible options: --cost): see `ddspo show --help`"),
        (("run",), "missing argument 'recipe': see `ddspo run --help`"),
        (("vote", "x", "--port", "-1"), "invalid value for '--port': "),
        (("--nope",), "no such option: --nope: see `ddspo --help`"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = command(monkeypatch, capsys, *arguments)
    assert code == 2
    assert said.startswith(f"ddspo: {line}")
    assert said.count("\n") == 1


def test_help_and_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, beginning in (((), "Usage: ddspo "), (("--version", "list"), f"ddspo {version('ddspo')}\n")):
        monkeypatch.setattr(sys, "argv", ["ddspo", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        assert capsys.readouterr().out.startswith(beginning)
    monkeypatch.setattr("typer.confirm", aborted)
    monkeypatch.setattr(catalogue, "names", lambda kind: typer.confirm("Go on?"))
    assert command(monkeypatch, capsys, "list") == (130, "ddspo: interrupted\n")


def aborted(question: str) -> bool:
    raise typer.Abort


def test_a_reader_who_has_gone(tmp_path: Path) -> None:
    """What is buffered fails only when it is flushed, and must not fail once more when the interpreter ends."""
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from ddspo import cli; cli.app = lambda **k: print('a line'); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "ddspo: nobody reads the output any more: it ends here\n")


def test_an_interruption_while_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt if name == "main" else AttributeError(name)

    monkeypatch.setitem(sys.modules, "ddspo.cli", Interrupted("ddspo.cli"))
    with pytest.raises(SystemExit, match="130"):
        __main__.main()
    assert capsys.readouterr().err == "ddspo: interrupted\n"


def test_processes_that_fail_together_say_it_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    wrong = ("show", str(tmp_path / "none.yaml"))
    assert command(monkeypatch, capsys, *wrong) == (2, f"ddspo: no recipe {wrong[1]}: check the path\n")
    assert command(monkeypatch, capsys, *wrong) == (2, "")
    (claim,) = tmp_path.iterdir()
    os.utime(claim, (0, 0))
    assert command(monkeypatch, capsys, *wrong)[1] != ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_disk_that_takes_no_more(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In the middle of a stage: one line, no file that looks whole, and the same command goes on."""
    run, rename = RunFolder(tmp_path / "scenes"), os.replace

    def replace(old: Path, new: Path) -> None:
        if Path(new).name == run.prompts.name:
            raise OSError(number, os.strerror(number), str(new))
        rename(old, new)

    arguments = ("degrade", str(SCENES), f"out={tmp_path}", "sample.pairs=4", "trackers=[]")
    with monkeypatch.context() as broken:
        broken.setattr(files.os, "replace", replace)
        code, said = command(broken, capsys, *arguments)
    assert code == 1
    assert said.splitlines()[-1].startswith(f"ddspo: {run.prompts}: {os.strerror(number)}: ")
    assert "Traceback" not in said
    assert not run.prompts.exists()
    assert command(monkeypatch, capsys, *arguments)[0] == 0
    assert read_rows(run.prompts)


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """The system's own limit, which comes as a signal first."""
    line = f'ulimit -f 16; exec {sys.executable} -m ddspo degrade {SCENES} "out={tmp_path}" trackers=[]'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ddspo: File too large: files may not grow so large here")
    assert "Traceback" not in done.stderr
    assert not RunFolder(tmp_path / "scenes").prompts.exists()


def test_what_is_quoted_is_short_and_printable() -> None:
    deep: list[Any] = []
    for _ in range(50):
        deep = [deep] * 9
    for value in (deep, "x" * 10**6, "\x1b\u202e" * 99, {"a" * 999: deep}, 10**5000, b"\xff" * 999, {deep[0] is None}):
        assert len(quoted(value)) < 700
        assert quoted(value).isprintable()
    assert quoted("a'b\n") == repr("a'b\n")
    assert [quoted(value) for value in (1.5, None, [1, "a"], {"a": True})] == [
        "1.5",
        "None",
        "[1, 'a']",
        "{'a': True}",
    ]
    assert shortened("ab" * 500, 10) == "ababa...babab"


def test_a_long_message_keeps_what_is_wrong_and_the_mend() -> None:
    message = str(InputError(f"name {'x' * 9999}\n: give another"))
    assert message.startswith("name xxx")
    assert message.endswith("x\\n: give another")
    assert LONGEST <= len(message) < LONGEST + 10
    assert ending(InputError(message)) == Ending(message, 2)


def test_whoever_is_quoted_is_quoted_shortly() -> None:
    """No message of an error writes a value out whole."""
    found = []
    for path in Path(catalogue.__file__).parent.rglob("*.py"):
        raised = [
            node.exc for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise) and node.exc
        ]
        calls = [
            each for each in raised if isinstance(each, ast.Call) and getattr(each.func, "id", "") == "InputError"
        ]
        parts = [part for call in calls for part in ast.walk(call) if isinstance(part, ast.FormattedValue)]
        found += [f"{path}:{part.lineno}" for part in parts if part.conversion == ord("r") and not part.format_spec]
    assert not found


def test_a_line_of_progress_is_legible(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("a\x1b[31mb\nc [bold]d")
    assert capsys.readouterr().err == "a\\x1b[31mb\\nc [bold]d\n"
