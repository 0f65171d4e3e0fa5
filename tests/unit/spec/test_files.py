"""A file or folder is written whole or not at all, and what was there is replaced by force alone."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.spec import files
from heartvit_edge.spec.files import check_sha256, new_file, new_folder, refuse_existing, sha256_bytes, sha256_file

# An interrupt is no Exception: it must be cleaned up after all the same.
ENDS = pytest.mark.parametrize("end", [RuntimeError, KeyboardInterrupt, SystemExit])


def _content(folder):
    """Map every path below a folder to its text; None for a folder."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in found}


def test_hashes_are_those_of_hashlib(tmp_path):
    content = os.urandom(3_000_000)  # more than one read
    (tmp_path / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert sha256_file(tmp_path / "file") == expected
    assert sha256_bytes(content[:10], content[10:]) == expected


def test_the_hash_of_nothing_is_the_published_one():
    assert sha256_bytes() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_hash_of_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=f"cannot read {tmp_path / 'no'}: No such file or directory"):
        sha256_file(tmp_path / "no")


def test_a_file_with_the_expected_hash_passes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    check_sha256(tmp_path / "file", hashlib.sha256(b"abc").hexdigest(), hint="make it again")


def test_an_altered_file_fails_with_both_hashes_and_the_hint(tmp_path):
    (tmp_path / "file").write_bytes(b"abd")
    expected = hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(CheckError) as caught:
        check_sha256(tmp_path / "file", expected, hint="make it again")
    found = hashlib.sha256(b"abd").hexdigest()
    assert str(caught.value) == f"{tmp_path / 'file'} was altered: SHA-256 is {found}, its manifest says {expected}"
    assert caught.value.hint == "make it again"
    assert caught.value.exit_code == 5


def test_the_hash_of_a_missing_file_is_no_failed_check(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*no: No such file") as caught:
        check_sha256(tmp_path / "no", "0" * 64, hint="make it again")
    assert caught.value.hint == "make it again"


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_what_exists_may_be_written_by_force_alone(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"{path} exists already") as caught:
        refuse_existing(path, force=False)
    assert "--force" in caught.value.hint
    refuse_existing(path, force=True)


def test_what_does_not_exist_may_be_written(tmp_path):
    refuse_existing(tmp_path / "new", force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_appears_whole_when_the_body_ends(tmp_path):
    path = tmp_path / "a/b/file.json"
    with new_file(path, force=False) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert (temporary.parent, temporary.suffix) == (path.parent, path.suffix)
    assert _content(path.parent) == {"file.json": "new"}


def test_a_new_folder_appears_whole_when_the_body_ends(tmp_path):
    path = tmp_path / "a/b/pack"
    with new_folder(path, force=False) as temporary:
        (temporary / "one").write_text("new")
        assert not path.exists()
    assert _content(path.parent) == {"pack": None, "pack/one": "new"}
    assert path.stat().st_mode & 0o777 == 0o755


@ENDS
@pytest.mark.parametrize("make", [new_file, new_folder])
def test_a_body_that_fails_leaves_nothing_behind(tmp_path, make, end):
    with pytest.raises(end), make(tmp_path / "new", force=False) as temporary:
        (temporary / "half" if temporary.is_dir() else temporary).write_text("half")
        raise end
    assert _content(tmp_path) == {}


@ENDS
def test_a_body_that_fails_keeps_the_former_file_even_with_force(tmp_path, end):
    (tmp_path / "file").write_text("former")
    with pytest.raises(end), new_file(tmp_path / "file", force=True) as temporary:
        temporary.write_text("half")
        raise end
    assert _content(tmp_path) == {"file": "former"}


@ENDS
def test_a_body_that_fails_keeps_the_former_folder_even_with_force(tmp_path, end):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/one").write_text("former")
    with pytest.raises(end), new_folder(tmp_path / "pack", force=True) as temporary:
        (temporary / "two").write_text("half")
        raise end
    assert _content(tmp_path) == {"pack": None, "pack/one": "former"}


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_what_is_there_is_refused_without_force_before_the_body_begins(tmp_path, make):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(InputError, match="exists already"), make(tmp_path / "there", force=False):
        pytest.fail("the body ran")
    assert _content(tmp_path) == {"there": "mine"}


def test_a_file_is_replaced_by_force(tmp_path):
    (tmp_path / "file").write_text("former")
    with new_file(tmp_path / "file", force=True) as temporary:
        temporary.write_text("new")
    assert _content(tmp_path) == {"file": "new"}


def test_a_folder_is_replaced_by_force_with_nothing_of_the_former_left(tmp_path):
    (tmp_path / "pack/inside").mkdir(parents=True)
    (tmp_path / "pack/inside/one").write_text("former")
    with new_folder(tmp_path / "pack", force=True) as temporary:
        (temporary / "two").write_text("new")
    assert _content(tmp_path) == {"pack": None, "pack/two": "new"}


def test_a_file_is_replaced_by_a_folder_by_force(tmp_path):
    (tmp_path / "pack").write_text("former")
    with new_folder(tmp_path / "pack", force=True) as temporary:
        (temporary / "two").write_text("new")
    assert _content(tmp_path) == {"pack": None, "pack/two": "new"}


def test_a_folder_is_not_replaced_by_a_file_even_by_force(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/one").write_text("former")
    with (
        pytest.raises(InputError, match=f"{tmp_path / 'pack'} is a folder, expected the name of a file"),
        new_file(tmp_path / "pack", force=True),
    ):
        pytest.fail("the body ran")
    assert _content(tmp_path) == {"pack": None, "pack/one": "former"}


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_force_replaces_a_link_and_not_what_it_points_to(tmp_path, make):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/one").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / ("mine/one" if make is new_file else "mine"))
    with make(link, force=True) as temporary:
        (temporary / "two" if temporary.is_dir() else temporary).write_text("new")
    assert not link.is_symlink()
    made = {"link": "new"} if make is new_file else {"link": None, "link/two": "new"}
    assert _content(tmp_path) == made | {"mine": None, "mine/one": "mine"}


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_a_link_to_nothing_is_replaced_by_force(tmp_path, make):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with make(link, force=True):
        pass
    assert not link.is_symlink()
    assert list(_content(tmp_path)) == ["link"]


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_what_another_wrote_meanwhile_is_kept_without_force(tmp_path, make):
    path = tmp_path / "there"
    with pytest.raises(InputError, match="exists already"), make(path, force=False):
        path.write_text("another's")
    assert _content(tmp_path) == {"there": "another's"}


@ENDS
def test_the_former_folder_comes_back_where_the_last_rename_fails(tmp_path, monkeypatch, end):
    path = tmp_path / "pack"
    path.mkdir()
    (path / "one").write_text("former")
    rename = files.Path.rename

    def fail_at_the_end(self, target):
        if target == path and not self.name.endswith(".former"):
            raise end
        return rename(self, target)

    monkeypatch.setattr(files.Path, "rename", fail_at_the_end)
    with pytest.raises(end), new_folder(path, force=True) as temporary:
        (temporary / "two").write_text("new")
    assert _content(tmp_path) == {"pack": None, "pack/one": "former"}


def test_the_working_folder_cannot_be_replaced(tmp_path, monkeypatch):
    (tmp_path / "one").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"cannot replace \.: "), new_folder(files.Path("."), force=True):
        pass
    assert _content(tmp_path) == {"one": "mine"}


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_a_disk_that_is_full_is_told_and_leaves_nothing(tmp_path, make):
    with pytest.raises(MachineError, match="new cannot be written: No space left on device") as caught:
        with make(tmp_path / "new", force=False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.hint == f"make room: df -h {tmp_path}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_another_error_of_the_system_is_passed_on(tmp_path, make):
    with pytest.raises(IsADirectoryError), make(tmp_path / "new", force=False) as temporary:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(temporary))


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_a_place_that_cannot_be_written_is_named(tmp_path, make):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(InputError, match=f"cannot write in {tmp_path / 'file'}: "),
        make(tmp_path / "file/new", force=False),
    ):
        pytest.fail("the body ran")
    assert _content(tmp_path) == {"file": "mine"}
