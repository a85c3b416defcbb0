"""Atomic writes: the whole new file, or the old one."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest
from conftest import ROOT, script_environment

from appearance.cli import InputError
from appearance.files import FolderLost, atomic_write, beside, held, write_text


def test_writes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    atomic_write(path, lambda file: file.write(b"content"))
    assert path.read_bytes() == b"content"
    assert os.listdir(path.parent) == ["file.bin"]


def test_files_are_as_readable_as_ordinary_ones(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    atomic_write(tmp_path / "file", lambda file: file.write(b"x"))
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (OSError(28, "No space left on device"), InputError),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"), InputError),
        (RuntimeError("something else"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, raised, seen):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the new")
        raise raised

    with pytest.raises(seen) as caught:
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    if seen is InputError:
        assert str(path) in str(caught.value)
        assert "an existing file is unchanged" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        atomic_write(tmp_path / "taken" / "file", lambda file: file.write(b"x"))


def test_a_folder_is_put_in_place_when_it_is_whole(tmp_path):
    place = tmp_path / "new" / "set"
    with beside(place) as folder:
        folder.mkdir()
        (folder / "a").touch()
        assert not place.exists()
    assert [path.name for path in place.iterdir()] == ["a"]
    with pytest.raises(KeyError), beside(tmp_path / "other") as file:
        {}[file.write_text("half")]
    with pytest.raises(OSError, match="not empty"), beside(place) as folder:
        folder.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [path.name for path in place.parent.iterdir()] == ["set"]


def test_what_is_half_written_when_its_folder_is_lost_is_not_put_in_place(tmp_path):
    place = tmp_path / "disk" / "set"

    def write_into(folder):
        (folder / "a").mkdir(parents=True)
        shutil.rmtree(place.parent)
        (folder / "b").mkdir(parents=True)

    with pytest.raises(OSError, match="deleted or unmounted meanwhile"), beside(place) as folder:
        write_into(folder)
    assert not place.exists()


def test_a_held_folder_is_not_made_anew(tmp_path):
    with held(tmp_path / "run"):
        write_text(tmp_path / "run" / "a", "whole")
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(FolderLost, match="run: was deleted or unmounted"):
            write_text(tmp_path / "run" / "a", "whole")
        (tmp_path / "run").mkdir()  # the file system may give it the old number again
        with pytest.raises(FolderLost):
            write_text(tmp_path / "run" / "a", "whole")
        assert not os.listdir(tmp_path / "run")
    write_text(tmp_path / "run" / "a", "whole")


def test_a_folder_with_content_is_replaced_where_that_is_asked_for(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").touch()
    for failing in (True, False):
        try:
            with beside(tmp_path / "set", replace=True) as folder:
                folder.mkdir()
                (folder / "new").touch()
                assert not failing, "in the middle"
        except AssertionError:
            assert [path.name for path in (tmp_path / "set").iterdir()] == ["old"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_a_kill_left_half_replaced_comes_back(tmp_path):
    hidden = tmp_path / ".set.abc.unfinished"
    (hidden / "set.old").mkdir(parents=True)
    (hidden / "set").mkdir()
    write_text(hidden / "set.old" / "old", "whole")
    write_text(tmp_path / "other", "whole")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["other", "set", "set/old"]


def test_what_others_are_writing_is_left_alone(tmp_path):
    with beside(tmp_path / "slow") as folder:
        folder.mkdir()
        write_text(tmp_path / "quick", "whole")
        (folder / "late").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["late", "quick", "slow"]


def test_what_a_killed_command_left_is_removed_by_the_next_one(tmp_path):
    """`draw` is killed at its first images, and its two workers end with it."""
    command = [sys.executable, ROOT / "datasets.py", "draw", "people", "--identities", "300", "--workers", "2"]
    drawing = subprocess.Popen(command, cwd=tmp_path, env=script_environment(), stdout=subprocess.DEVNULL)
    while not (found := list(tmp_path.glob(".people.*/people/*/*.jpg"))):
        assert drawing.poll() is None
        time.sleep(0.05)
    drawing.send_signal(signal.SIGKILL)
    drawing.wait()
    assert found[0].exists()
    deadline = time.monotonic() + 60
    while [path.name for path in tmp_path.iterdir()] != ["note.txt"]:
        assert time.monotonic() < deadline
        write_text(tmp_path / "note.txt", "by another command")
        time.sleep(0.05)
