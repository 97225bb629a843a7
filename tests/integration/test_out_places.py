"""Where a data folder may be put: links are followed, nothing of anybody's is deleted."""

import errno
import fcntl
import os
import subprocess

import pytest

from data_pipeline.errors import UserError
from data_pipeline.folder.verify import verify
from tests.data_folders import written


def refuse_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_written_through(tmp_path, there):
    (tmp_path / "scratch").mkdir()
    target = tmp_path / "scratch" / "x"
    if there:
        target.mkdir()
    link = tmp_path / "link"
    link.symlink_to("scratch/x")
    written(link)
    written(link, fold=1, overwrite=True)
    assert link.is_symlink()
    assert verify(str(target)) == []
    assert '"fold": 1' in (target / "manifest.json").read_text()
    assert sorted(os.listdir(tmp_path)) == ["link", "scratch"]
    assert os.listdir(tmp_path / "scratch") == ["x"]


def test_the_current_folder_is_not_exchanged_under_the_shell(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    for out in (".", "..", str(tmp_path)):
        with pytest.raises(UserError, match="the current folder lies in it"):
            written(out)
    assert os.listdir(".") == []


def test_places_that_cannot_be_used_are_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / ".y.partial").write_text("mine")
    for name in ("file", "file/d", "circle", "n" * 300, "y"):
        with pytest.raises(UserError) as caught:
            written(tmp_path / name)
        assert name[:100] in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="/proc/x"):
        written("/proc/x/y")
    assert (tmp_path / "file").read_text() == "mine"


def test_overwrite_deletes_only_what_was_written_by_us(tmp_path):
    written(tmp_path / "d")
    (tmp_path / "d" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        written(tmp_path / "d", fold=1, overwrite=True)
    assert (tmp_path / "d" / "thesis.tex").read_text() == "mine"
    (tmp_path / "d" / "thesis.tex").unlink()
    (tmp_path / "d" / "samples.png").write_text("of vae-dist inspect")
    assert written(tmp_path / "d", fold=1, overwrite=True).manifest.provenance["settings"]["fold"]


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "a web app"}', '{"version": 3}'])
def test_a_manifest_that_is_not_ours_is_not_overwritten(tmp_path, text):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="choose another --out, or remove the folder"):
        written(tmp_path / "d", overwrite=True)
    assert (tmp_path / "d" / "manifest.json").read_text() == text


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", refuse_locks)
    monkeypatch.setattr(fcntl, "flock", refuse_locks)
    with pytest.warns(UserWarning, match="without locks"):
        written(tmp_path / "d")
    assert verify(str(tmp_path / "d")) == []
    assert os.listdir(tmp_path) == ["d"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_point_is_refused_before_anything_is_written(tmp_path):
    mount = ["mount", "-t", "tmpfs", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        with pytest.raises(UserError, match="a mount point"):
            written(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("garbage", ["{}", "[]", '{"shard": 5, "sums": 7}', "\x00"])
def test_a_damaged_record_of_a_shard_is_written_again(tmp_path, monkeypatch, garbage):
    """Left by a killed run in the building site, then damaged."""
    import data_pipeline.write.folder as module

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path / "d", samples_per_shard=40)
    (record,) = (tmp_path / ".d.partial").glob("scratch-*/train-000000.tar.json")
    record.write_text(garbage)
    written(tmp_path / "d", samples_per_shard=40)
    assert verify(str(tmp_path / "d")) == []
