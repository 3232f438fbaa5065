"""The command line itself: help, misspellings, exit codes, completion."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hybrid import cli
from hybrid.errors import BadData, CannotRun, HybridError, Missed, NotFinished, Temporary, UsageError
from hybrid.machine.terminal import clean, clean_line

HYBRID = Path(sys.executable).with_name("hybrid")


def hybrid(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command."""
    return subprocess.run(
        [HYBRID, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
        check=False,
    )


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """The exit code of a command that raises `error`."""

    @click.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli.Commands, "get_command", lambda self, ctx, name: fails)
    with pytest.raises(SystemExit) as left:
        cli.main([*options, "list"])
    return int(left.value.code or 0)


def test_help_lists_every_command_with_its_summary() -> None:
    done = hybrid("--help")
    assert done.returncode == 0
    for name, (_, line) in cli.COMMANDS.items():
        assert f"{name} " in done.stdout
        assert line in done.stdout


@pytest.mark.parametrize("command", [*cli.COMMANDS, "run local"])
def test_every_command_has_help_and_the_option_quiet(command: str) -> None:
    done = hybrid(*command.split(), "--help", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "--quiet" in done.stdout
    assert "--verbose" in done.stdout


def test_no_arguments_show_the_help_and_are_a_usage_error() -> None:
    done = hybrid()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


def test_version() -> None:
    assert hybrid("--version").stdout.startswith("hybrid 0.")


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["gradee"], "error: there is no command 'gradee'", "did you mean 'grade'?"),
        (["list", "--jsn"], "--jsn", "hybrid list --help"),
        (["describe"], "NAME", "hybrid describe --help"),
        (["export", "x"], "Missing option '--to'. Choose from: inspect, lm-eval", "hybrid export --help"),
        (["describe", "exac"], "error: there is no pipeline or grader 'exac'", "did you mean 'exact'?"),
        (["describe", "nothing-like-it"], "'nothing-like-it'", "known: arc, "),
        (["run", "locl", "seal-eval"], "locl", "local"),
        (["run", "local", "seal-evil"], "error: there is no pipeline 'seal-evil'", "did you mean 'seal-eval'?"),
        (["run", "local", "seal-eval", "--set", "sed=1"], "has no setting 'sed'", "did you mean 'seed'?"),
        (["grade", "no-such-file.json"], "no-such-file.json", ""),
        (["report", "no-such-file.json"], "no-such-file.json", ""),
    ],
)
def test_a_wrong_command_line_is_one_clear_line_and_exit_2(arguments: list[str], said: str, hint: str) -> None:
    done = hybrid(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert hint in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HybridError("x"), 1),
        (UsageError("x"), 2),
        (Missed("x"), 3),
        (NotFinished("x"), 4),
        (Temporary("x"), 5),
        (BadData("x"), 6),
        (CannotRun("x"), 7),
        (click.UsageError("x"), 2),
        (KeyboardInterrupt(), 4),
        (MemoryError(), 7),
        (PermissionError(errno.EACCES, "Permission denied", "file"), 7),
        (OSError(errno.EROFS, "Read-only file system", "file"), 7),
        (OSError(errno.ENOSPC, "No space left on device", "file"), 5),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "file"), 2),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "file"), 2),
        (OSError(errno.EIO, "Input/output error", b"file"), 5),
        (RuntimeError("x"), 1),
        (OSError("nobody knows"), 1),
    ],
    ids=lambda value: getattr(type(value), "__name__", "") if isinstance(value, BaseException) else None,
)
def test_every_error_has_its_exit_code(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failing(error, monkeypatch) == code


def test_an_internal_error_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ZeroDivisionError("oh"), monkeypatch)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "test_cli.py" in said
    assert said.splitlines()[-2:] == [
        "error: this is a fault in hybrid: ZeroDivisionError",
        "hint: please report it with the lines above",
    ]


def test_control_characters_in_an_error_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(BadData("bad\x1b[2J", hint="\x9b31m\u202eabc"), monkeypatch)
    assert capsys.readouterr().err == "error: bad\\x1b[2J\nhint: \\x9b31m\\u202eabc\n"


def test_the_traceback_of_an_error_is_shown_with_vv() -> None:
    assert "Traceback" in hybrid("-vv", "describe", "exac").stderr
    assert "Traceback" in hybrid("describe", "exac", "-vv").stderr
    assert "Traceback" not in hybrid("-v", "describe", "exac").stderr


def test_a_closed_stdout_ends_the_command_silently() -> None:
    lines = "hybrid.cli.COMMANDS.update({str(i): ('', 'x' * 500) for i in range(5000)})"
    code = f"import hybrid.cli; {lines}; hybrid.cli.main(['--help'])"
    shell = f'"{sys.executable}" -c "{code}" | head -c 10'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.stderr) == ("Usage: hyb", "")


def test_an_interrupt_at_any_time_is_one_line_and_exit_4(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = f"""
import signal
from hybrid import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.hybrid.invoke = lambda ctx: (open({str(fifo)!r}, "w").close(), signal.pause())
cli.main(["list"])
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        fifo.read_text()  # the command is at work once it opens the other end
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=240)
    assert (process.returncode, said.splitlines()[-2]) == (4, "error: interrupted")


def test_list_and_describe_print_json() -> None:
    listed = [json.loads(line) for line in hybrid("list", "--json").stdout.splitlines()]
    assert {
        "kind": "grader",
        "name": "exact",
        "distribution": "hybrid",
        "value": "graders.exact:Exact",
        "rivals": [],
    } in listed
    described = json.loads(hybrid("describe", "seal-eval", "--json").stdout)
    assert described["kind"] == "pipeline"
    assert {"name", "type", "default", "help", "required", "range"} == set(described["settings"][0])
    assert {one["name"]: one["range"] for one in described["settings"]}["temperature"] == "0 or more"


@pytest.mark.slow
def test_every_setting_of_every_plugin_is_documented() -> None:
    for entry in map(json.loads, hybrid("list", "--json").stdout.splitlines()):
        lines = hybrid("describe", entry["name"], "--json").stdout.splitlines()  # one for each kind of that name
        for described in map(json.loads, lines):
            assert described["help"]
            assert [setting["name"] for setting in described["settings"] if not setting["help"]] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_completion_script(shell: str) -> None:
    script = hybrid(_HYBRID_COMPLETE=f"{shell}_source").stdout
    assert "hybrid" in script
    program = shutil.which(shell)
    if program:
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=240)


def test_bash_completes_commands_without_loading_them() -> None:
    script = hybrid(_HYBRID_COMPLETE="bash_source").stdout
    asked = f'{script}\nCOMP_WORDS=(hybrid de); COMP_CWORD=1; _hybrid_completion hybrid; echo "${{COMPREPLY[@]}}"'
    path = f"{HYBRID.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", asked], capture_output=True, text=True, env={**os.environ, "PATH": path}, timeout=240, check=True
    )
    assert done.stdout == "describe\n"


def test_options_of_a_command_are_completed() -> None:
    done = hybrid(_HYBRID_COMPLETE="bash_complete", COMP_WORDS="hybrid list --j", COMP_CWORD="2")
    assert "--json" in done.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字 🙂\n\tnext", "plain é 漢字 🙂\n\tnext"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x08c\x7f\x00", "a\\x0db\\x08c\\x7f\\x00"),
        ("\u202eabc\u2066\u200f", "\\u202eabc\\u2066\\u200f"),
        ("\u200b\ufeff\U000e0041", "\\u200b\\ufeff\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_shown_escaped(text: str, shown: str) -> None:
    assert clean(text) == shown
    assert clean(clean(text)) == shown


def test_long_texts_are_cut_and_lines_are_joined() -> None:
    assert clean("x" * 10, 5) == "xxxx…"
    assert clean("x" * 5, 5) == "xxxxx"
    assert len(clean("\x1b" * 10**6, 50)) == 50
    assert clean_line("a\nb\tc") == "a\\nb\\tc"


def test_a_message_is_one_line_so_that_untrusted_text_cannot_forge_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(BadData("bad\nhint: run this", hint="a\nerror: b" + "x" * 10**6), monkeypatch)
    said = capsys.readouterr().err
    assert said.startswith("error: bad\\nhint: run this\nhint: a\\nerror: bxxx")
    assert len(said.splitlines()) == 2
    assert len(said) < 3000


def test_a_traceback_has_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ValueError("\x1b[2J"), monkeypatch)
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_outside_the_encoding_of_the_stream_are_escaped(encoding: str) -> None:
    for name in ("日本", "\ud800"):
        code = f"from hybrid import cli; cli.main(['describe', {name!r}])"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            timeout=240,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert b"error: there is no pipeline or grader" in done.stderr
        assert b"Traceback" not in done.stderr


def test_output_that_bypasses_click_is_escaped_too() -> None:
    code = "from hybrid import cli; cli.hybrid.invoke = lambda ctx: print('日 –'); cli.main(['list'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"\\u65e5 \\u2013")


@pytest.mark.parametrize("command", ["list", "describe exact", "list --json", "--help"])
def test_a_closed_pipe_is_not_a_failure(command: str) -> None:
    shell = f'"{HYBRID}" {command} | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_continues_when_its_reader_closes_the_pipe(tmp_path: Path) -> None:
    work = f"[print('x' * 100_000, flush=True) for _ in range(9)], open({str(tmp_path / 'done')!r}, 'w').close(), 1 / 0"
    code = f"from hybrid import cli; cli.hybrid.invoke = lambda ctx: ({work}); cli.main(['list'])"
    shell = f'"{sys.executable}" -c "$CODE" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, env={**os.environ, "CODE": code}, timeout=240, check=False
    )
    assert done.returncode == 1
    assert (tmp_path / "done").exists()


def test_help_does_not_import_the_libraries_for_files() -> None:
    code = "import sys, hybrid.cli; print([m for m in ('zstandard', 'orjson', 'rich', 'ijson') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=240, check=False).stdout.strip()
        == b"[]"
    )
