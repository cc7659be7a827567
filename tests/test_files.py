"""The rules for files: whole or not at all, the usual rights, threads; paths; what is printed."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tinydigits.errors import Failure, UsageError
from tinydigits.files import expand, sweep_temporaries, write_atomically

posix = pytest.mark.skipif(os.name != "posix", reason="the rights are those of POSIX")


def python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    """Run some lines in a process of their own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


# ------------------------------------------------------------------------------------- writing


WRITE = (
    "import sys, pathlib, tinydigits.files as f; f.write_atomically(pathlib.Path(sys.argv[1]), 'x')"
)


@posix
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_file_has_the_rights_that_any_new_file_has(tmp_path: Path, umask: int):
    done = python(WRITE, tmp_path / "file", umask=umask)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def at_once(*jobs: Callable[[], object]) -> None:
    """Run jobs in threads that start at once; raises what they raise."""
    start = threading.Barrier(len(jobs))

    def begin(job: Callable[[], object]) -> object:
        start.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(begin, job) for job in jobs]:
            future.result()


@posix
def test_files_that_other_threads_make_meanwhile_keep_their_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The umask belongs to the whole process, so it must not be touched even for a moment."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    before = os.umask(0o077)
    change = os.umask

    def change_and_wait(mask: int) -> int:
        """Long enough for another thread to have its turn."""
        old = change(mask)
        time.sleep(0.01)
        return old

    monkeypatch.setattr(os, "umask", change_and_wait)
    try:
        at_once(
            lambda: [write_atomically(tmp_path / "ours" / f"{i}", b"") for i in range(20)],
            lambda: [(tmp_path / "theirs" / f"{i}").touch() for i in range(2000)],
        )
    finally:
        change(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*")} == {0o600}


def test_threads_that_write_one_file_leave_one_of_their_contents(tmp_path: Path):
    path = tmp_path / "file"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    path.write_bytes(contents[0])
    seen = set()

    def look() -> None:
        for _ in range(200):
            seen.add(path.read_bytes())

    def write(content: bytes) -> None:
        for _ in range(5):
            write_atomically(path, content)

    at_once(look, *(lambda c=content: write(c) for content in contents))
    assert seen | {path.read_bytes()} <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_on_the_way_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
):
    (tmp_path / "file").write_text("old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(Failure if isinstance(error, OSError) else KeyboardInterrupt):
        write_atomically(tmp_path / "file", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("place", ["is a file/name", "is a folder", "x" * 300])
def test_place_that_cannot_be_written_is_a_failure_in_one_sentence(tmp_path: Path, place: str):
    (tmp_path / "is a file").write_text("")
    (tmp_path / "is a folder").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Failure, match=rf"^Cannot write {tmp_path / place}: \w.*$"):
        write_atomically(tmp_path / place, "content")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", ["plain", "ä ć 数", "lines\r\n\n", "the path /tmp/\udcff"])
def test_any_text_is_written_as_utf_8(tmp_path: Path, text: str):
    write_atomically(tmp_path / "file", text)
    expected = text.replace("\udcff", "\\udcff")
    assert (tmp_path / "file").read_bytes().decode() == expected


def test_only_old_leftovers_are_swept(tmp_path: Path):
    for name in (".old.tmp", ".young.tmp", "old.tmp"):
        (tmp_path / name).write_text("")
    for name in (".old.tmp", "old.tmp"):
        os.utime(tmp_path / name, (0, 0))
    sweep_temporaries(tmp_path)
    sweep_temporaries(tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".young.tmp", "old.tmp"]


# --------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("path", ["/a/b", "a/b", "a/~", "/~nosuchuser"])
@pytest.mark.parametrize("kind", [str, Path])
def test_path_without_a_home_stays_as_it_is(path: str, kind: type):
    assert expand(kind(path)) == Path(path)


@pytest.mark.parametrize("kind", [str, Path])
@posix
def test_homes_are_expanded(monkeypatch: pytest.MonkeyPatch, kind: type):
    import pwd

    monkeypatch.setenv("HOME", "/my/home")
    user = pwd.getpwuid(os.getuid())
    assert expand(kind("~")) == Path("/my/home")
    assert expand(kind("~/a")) == Path("/my/home/a")
    assert expand(kind(f"~{user.pw_name}/a")) == Path(user.pw_dir, "a")


@pytest.mark.parametrize("path", ["~nosuchuser", "~nosuchuser/a"])
@pytest.mark.parametrize("kind", [str, Path])
def test_user_that_does_not_exist_is_a_usage_error(path: str, kind: type):
    with pytest.raises(UsageError, match=f"^Nobody knows which folder ~nosuchuser in {path} is: "):
        expand(kind(path))


@pytest.mark.parametrize("path", ["~", "~/a"])
@posix
def test_user_without_a_home_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, path: str):
    def unknown(*_: object):
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(UsageError, match=f"^Nobody knows which folder ~ in {path} is: "):
        expand(path)


# ------------------------------------------------------------------------------------ printing

PRINT = """
import sys
from tinydigits.terminal import printable_streams, say
printable_streams()
for text in sys.argv[1:]:
    print(eval(text), flush=True)
    say(eval(text))
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "cp1252:strict"])
def test_any_text_is_printed_in_any_encoding(encoding: str):
    texts = ["plain", "Ä", "ć", "数", "\N{GRINNING FACE}", "/tmp/\udcff"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = python(PRINT, *map(ascii, texts), env=environment)
    assert done.returncode == 0, done.stderr
    expected = [text.encode(encoding.split(":")[0], "backslashreplace") for text in texts]
    assert done.stdout.splitlines() == done.stderr.splitlines() == expected


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("instead", ["None", "__import__('io').StringIO()"])
def test_streams_that_are_none_stay_as_they_are(stream: str, instead: str):
    """A program without a console has none, and a notebook puts its own in their place."""
    code = f"import sys; sys.{stream} = {instead}; {PRINT.split('for')[0]}"
    done = python(code)
    assert done.returncode == 0, done.stderr
