"""Content-addressed blobs: whole or not at all, once, checked, healed, collected."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.errors import StoreCorrupt, StoreUnwritable
from sweep.store.blobs import BlobStore, MemoryBlobs


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_the_address_is_the_hash_of_the_bytes_however_they_are_cut(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = hashlib.blake2b(whole, digest_size=32).hexdigest() + ".bin"
    for data in (whole, bytearray(whole), memoryview(whole), chunks, iter(chunks)):
        blobs = MemoryBlobs()
        assert blobs.put(data, ".bin") == expected
        assert blobs.open(expected).read() == whole


def test_a_store_keeps_a_blob_once_and_reads_it_back(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "deep" / "blobs")
    address = blobs.put([b"one", b"two"], ".npy")
    assert address == MemoryBlobs().put(b"onetwo", ".npy")
    assert blobs.put(b"onetwo", ".npy") == address
    assert _files(tmp_path) == [blobs.path(address)]
    assert blobs.path(address).relative_to(tmp_path / "deep" / "blobs") == Path(address[:2], address[2:])
    with BlobStore(tmp_path / "deep" / "blobs", sync=False).open(address) as file:
        assert (file.read(), file.seek(0), file.read(3)) == (b"onetwo", 0, b"one")
    assert list(blobs.addresses()) == [address]


def test_syncing_touches_file_and_directories_and_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file was synced")
    BlobStore(tmp_path, sync=False).put(b"a", ".bin")
    assert synced == []
    address = BlobStore(tmp_path).put(b"b", ".bin")
    assert synced[0].endswith(".tmp")  # before it gets its name
    assert synced[1:] == [str(tmp_path / address[:2]), str(tmp_path)]


@pytest.mark.parametrize("damage", [b"", b"onetw", b"onetwO", b"onetwothree"])
def test_damage_is_noticed_named_and_healed(tmp_path: Path, damage: bytes) -> None:
    blobs = BlobStore(tmp_path)
    address = blobs.put(b"onetwo", ".bin")
    blobs.path(address).write_bytes(damage)
    with pytest.raises(StoreCorrupt, match=str(blobs.path(address))):
        blobs.open(address)
    assert blobs.put(b"onetwo", ".bin") == address
    with blobs.open(address) as file:
        assert file.read() == b"onetwo"


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    address = MemoryBlobs().put(b"x", ".bin")
    with pytest.raises(StoreCorrupt, match=address[2:]):
        BlobStore(tmp_path).open(address)
    with pytest.raises(StoreCorrupt, match=address):
        MemoryBlobs().open(address)


@pytest.mark.parametrize(
    "address", ["", "../../../etc/passwd", "a" * 64, "A" * 64 + ".bin", "a" * 64 + ".b/n", "a" * 65]
)
def test_an_address_is_no_path(tmp_path: Path, address: str) -> None:
    with pytest.raises(StoreCorrupt, match="no address"):
        BlobStore(tmp_path).open(address)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        BlobStore(tmp_path).put(chunks(), ".bin")
    assert _files(tmp_path) == []


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnwritable, match=f"{tmp_path}.*No space left"):
        BlobStore(tmp_path).put(b"x", ".bin")
    assert _files(tmp_path) == []


def test_a_directory_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnwritable, match="file"):
        BlobStore(tmp_path / "file").put(b"x", ".bin")


def test_many_threads_may_put_the_same(tmp_path: Path) -> None:
    contents = [bytes([n]) * 5000 for n in range(5)]
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for content in contents * 3:
                blobs = BlobStore(tmp_path, sync=False)
                with blobs.open(blobs.put(content, ".bin")) as file:
                    assert file.read() == content
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(_files(tmp_path)) == len(contents)


def test_collecting_removes_what_is_old_and_not_referred_to(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    kept, old, fresh, again = (blobs.put(bytes([n]) * 100, ".bin") for n in range(4))
    leftover = tmp_path / "1-ab.tmp"
    leftover.write_bytes(b"abc")
    for path in (*map(blobs.path, (kept, old, again)), leftover):
        os.utime(path, (1000, 1000))
    os.utime(blobs.path(fresh), (5000, 5000))
    blobs.put(bytes([3]) * 100, ".bin")  # used again just now
    assert blobs.collect({kept}, before=2000) == 103
    assert set(blobs.addresses()) == {kept, fresh, again}
    assert blobs.collect(set(), before=6000) == 200
    assert set(blobs.addresses()) == {again}
    assert BlobStore(tmp_path / "nothing").collect([], 1e12) == 0


def test_blobs_travel_from_memory_into_a_store(tmp_path: Path) -> None:
    memory, store = MemoryBlobs(), BlobStore(tmp_path)
    address = memory.put(b"x" * 100, ".npy")
    MemoryBlobs(dict(memory.data)).copy_to(store)
    with store.open(address) as file:
        assert file.read() == b"x" * 100
    memory.data[address] += b"y"
    with pytest.raises(StoreCorrupt, match=address):
        memory.copy_to(store)
