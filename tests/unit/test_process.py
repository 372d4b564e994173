"""A command ends with its exit code and without a traceback, whatever signal or lost stream it meets."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import os, signal, sys, time
from bench.process import guarded
with guarded():
    kill = lambda name: os.kill(os.getpid(), getattr(signal, name))
"""


def start(body: str, **streams: object) -> "subprocess.Popen[str]":
    """A guarded command; its code is indented by four blanks."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([sys.executable, "-c", f"{HEAD}    {body}\n"], text=True, **given)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("kill('SIGINT')", 130),
        ("kill('SIGTERM')", 143),
        ("kill('SIGHUP')", 143),  # a lost ssh session
        ("kill('SIGINT'); kill('SIGINT')", 130),
        ("sys.exit(2)", 2),
        ("pass", 0),
    ],
)
def test_a_command_ends_with_the_code_of_its_signal(body: str, code: int) -> None:
    with start(body) as command:
        assert command.communicate() == ("", "")
    assert command.returncode == code


def test_an_interrupt_in_code_from_a_text_does_not_end_a_module_by_the_signal(tmp_path: Path) -> None:
    """As in the code that dataclasses make while they are imported; Python notes such an interrupt."""
    (tmp_path / "module.py").write_text(f"{HEAD}    exec('kill(\"SIGINT\")')\n")
    done = subprocess.run([sys.executable, "-m", "module"], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_two_signals_end_it_at_once_and_not_by_the_second(second: str) -> None:
    with start(f"try: kill('SIGINT')\n    finally: kill('{second}'); print('went on')") as command:
        assert command.communicate() == ("", "")
    assert command.returncode == 130


def test_a_signal_while_python_shuts_down_does_not_end_it() -> None:
    late = "sys.late = type('Late', (), {'__del__': lambda _, kill=os.kill, pid=os.getpid(): kill(pid, 2)})()"
    with start(f"{late}; sys.exit(3)") as command:
        assert command.communicate() == ("", "")
    assert command.returncode == 3


def test_under_nohup_a_lost_terminal_ends_nothing() -> None:
    body = "from bench.process import guarded\nwith guarded(): os.kill(os.getpid(), 1); print('went on')"
    code = f"import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{body}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("path", ["", str(Path(sys.executable).parent)])
def test_a_shell_can_call_bench_by_the_name_that_messages_give(path: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": path}
    code = "from bench.process import program; print(program())"
    named = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    done = subprocess.run(
        f"{named.stdout.strip()} --help",
        shell=True,
        executable="/bin/sh",
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0
    assert (named.stdout == "bench\n") == bool(path)


def test_output_that_cannot_be_written_is_one_message_and_the_work_goes_on(tmp_path: Path) -> None:
    body = f"print(1, flush=True); print(2, flush=True); open({str(tmp_path / 'done')!r}, 'w').close()"
    with Path("/dev/full").open("w") as full, start(body, stdout=full) as command:
        _, err = command.communicate()
    assert err == "standard output: No space left on device; what follows is not shown\n"
    assert command.returncode == 3
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv drops root's right to all files")
@pytest.mark.parametrize(("command", "locked"), [("status", "runs"), ("table", "."), ("sweep", "runs")])
def test_another_users_folder_is_one_message(tmp_path: Path, command: str, locked: str) -> None:
    folder = tmp_path / "results"
    (folder / "runs" / ("0" * 12)).mkdir(parents=True)
    (folder / locked).chmod(0)
    fast = ["method=majority", f"results_dir={folder}", f"cache_dir={tmp_path}/cache", "track.mode=disabled"]
    given = fast if command in ("run", "sweep") else ["--results", str(folder)]
    weak = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    words = [*weak, sys.executable, "-m", "bench", command, *given]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith(f"{folder}")
    assert ": Permission denied; " in done.stderr


def test_a_reader_that_has_seen_enough_gets_no_message() -> None:
    with start("time.sleep(0.5); print('much')") as command:
        assert command.stdout is not None
        command.stdout.close()
        assert command.stderr is not None
        assert command.stderr.read() == ""
    assert command.returncode == 1


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&-"])
def test_a_stream_that_is_closed_is_not_taken_by_the_next_file(tmp_path: Path, closed: str) -> None:
    path = tmp_path / "file"
    body = (
        f"file = open({str(path)!r}, 'w'); print('shown'); os.write(1, b'C'); os.write(2, b'C'); file.close()"
    )
    (tmp_path / "script.py").write_text(f"{HEAD}    {body}\n")
    done = subprocess.run(f"{sys.executable} {tmp_path}/script.py {closed}", shell=True, capture_output=True)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert path.read_text() == ""


def test_a_terminal_that_vanishes_leaves_the_command_to_its_end(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    body = "sys.stdin.read(); print('x'); print('y', file=sys.stderr)"
    with start(f"{body}; open({str(tmp_path / 'done')!r}, 'w').close(); sys.exit(143)",
               stdin=subprocess.PIPE, stdout=theirs, stderr=theirs) as command:  # fmt: skip
        os.close(theirs)
        os.close(ours)
        assert command.stdin is not None
        command.stdin.close()
        command.wait()
    assert (tmp_path / "done").exists()
    assert command.returncode == 143
