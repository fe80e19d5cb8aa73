"""model.tar.gz: the same bytes for the same files, and nothing that leaves its folder."""

from __future__ import annotations

import io
import tarfile

import pytest

from engines.errors import SpecInvalid
from engines.sagemaker.package import pack, properties_of, unpack

FILES = {"serving.properties": b"engine=Python\n", "model.py": b"pass\n"}


def _archive(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def test_the_archive_is_the_same_bytes_whatever_the_order() -> None:
    assert pack(FILES) == pack(dict(reversed(FILES.items())))


def test_the_archive_is_flat_and_has_no_owner_and_no_time() -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(FILES))) as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == ["model.py", "serving.properties"]
    assert {(entry.mtime, entry.uid, entry.gid, entry.mode, entry.isfile()) for entry in entries} == {
        (0, 0, 0, 0o644, True)
    }


def test_it_reads_back() -> None:
    assert unpack(pack(FILES), "model.tar.gz") == FILES


def test_one_enclosing_folder_is_taken_off_as_djl_does() -> None:
    data = _archive([(tarfile.TarInfo(f"code/{name}"), content) for name, content in FILES.items()])
    assert unpack(data, "model.tar.gz") == FILES


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "..\\evil", "C:\\evil"])
def test_a_path_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(SpecInvalid, match="outside its folder"):
        unpack(_archive([(tarfile.TarInfo(name), b"x")]), "model.tar.gz")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes) -> None:
    entry = tarfile.TarInfo("model.py")
    entry.type = kind
    entry.linkname = "/etc/passwd"
    with pytest.raises(SpecInvalid, match="link or a device"):
        unpack(_archive([(entry, b"")]), "model.tar.gz")


@pytest.mark.parametrize("data", [b"", b"not a tar", pack(FILES)[:40]])
def test_something_else_is_one_sentence(data: bytes) -> None:
    with pytest.raises(SpecInvalid, match="not a gzipped tar archive"):
        unpack(data, "model.tar.gz")


def test_properties_that_are_not_utf8_are_refused_with_the_byte() -> None:
    with pytest.raises(SpecInvalid, match="byte 0xe9 at offset 8 is not UTF-8"):
        properties_of({"serving.properties": "# propri\xe9t\xe9s".encode("latin-1")[0:8] + b"\xe9=1"})


def test_an_archive_without_properties_says_what_writes_them() -> None:
    with pytest.raises(SpecInvalid, match=r"no serving\.properties in it; `dyno recommend` writes one"):
        properties_of({"model.py": b""})
