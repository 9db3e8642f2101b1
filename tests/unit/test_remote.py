"""Files at URLs, in memory and on this disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcompress import remote
from qcompress.errors import RemoteError

fsspec = pytest.importorskip("fsspec", reason="the extra [remote] is not installed")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder of each kind: one where files appear at once, and one where they are moved to their place."""
    if request.param == "file":
        yield f"file://{tmp_path}/far"
    else:
        yield "memory://bucket/far"
        memory = fsspec.filesystem("memory")
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_text("content")
    return path


def test_what_is_a_url() -> None:
    assert all(map(remote.is_url, ("s3://b/x.onnx", "memory://x", "hf://a/b", "file:///x", "abfs://c@d/x")))
    assert not any(map(remote.is_url, ("x.onnx", "/a/b", "module:function", "C:\\x", "C://x", "random", Path("s3://x"))))


def test_files_travel_there_and_back(url: str, file: Path, tmp_path: Path) -> None:
    place = remote.join(url, "a/b c.txt")
    assert remote.read_text(place) is None
    assert remote.size(place) is None
    remote.upload(file, place)
    assert remote.read_text(place) == "content"
    assert remote.size(place) == 7
    assert remote.fetch(place, tmp_path / "back").read_text() == "content"
    assert remote.list_files(url) == {"a/b c.txt": place}
    remote.upload(file, remote.beside(place, "d.onnx"))
    assert list(remote.list_files(url, "**/*.onnx")) == ["a/d.onnx"]
    assert list(remote.list_files(remote.join(url, "a"), "**/*.onnx")) == ["d.onnx"]
    remote.remove(place)
    remote.remove(place)
    assert list(remote.list_files(url)) == ["a/d.onnx"]
    assert remote.list_files(remote.join(url, "nowhere")) == {}


def test_a_folder_is_fetched_whole_and_one_of_test_data_for_it_alone(url: str, file: Path, tmp_path: Path) -> None:
    for name in ("x/1.npz", "x/sub/2.npz", "y/m.onnx", "y/test_data_set_0/input_0.pb"):
        remote.upload(file, remote.join(url, name))
    found = remote.fetch(remote.join(url, "x"), tmp_path / "back")
    assert sorted(str(path.relative_to(found)) for path in found.rglob("*.npz")) == ["1.npz", "sub/2.npz"]
    found = remote.fetch(remote.join(url, "y"), tmp_path / "back")
    assert [path.name for path in found.rglob("*.*")] == ["input_0.pb"]


def test_a_fingerprint_changes_with_the_content(url: str, file: Path) -> None:
    place = remote.join(url, "a")
    assert remote.fingerprint(place) == ""
    remote.upload(file, place)
    first = remote.fingerprint(place)
    assert first == remote.fingerprint(place) != ""
    assert remote.data_fingerprint(url) == f"a {first}"
    assert remote.data_fingerprint(place) == first
    file.write_text("other content")
    remote.upload(file, place)
    assert remote.fingerprint(place) != first


def test_what_cannot_be_read_is_told_in_one_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="no such file or folder"):
        remote.fetch(remote.join(url, "nothing"), tmp_path)
    with pytest.raises(RemoteError, match="cannot be read: ValueError"):
        remote.fetch("nosuchprotocol://x", tmp_path)


def test_without_fsspec_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsspec", "fsspec.core"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RemoteError) as caught:
        remote.fetch("memory://x", tmp_path)
    assert "qcompress[remote]" in caught.value.hint
