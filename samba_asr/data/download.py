"""Download of public corpora: resumed after a broken connection, verified, unpacked safely."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from samba_asr.errors import UserError

log = logging.getLogger(__name__)

OPENSLR = "https://www.openslr.org/resources"


@dataclass(frozen=True)
class Archive:
    """A tar file of OpenSLR.  resource: its number there.  md5: from the `md5sum.txt` next to it."""

    resource: int
    md5: str


# LibriSpeech (resource 12) and Mini LibriSpeech (31).  Each unpacks to LibriSpeech/<name>.
ARCHIVES = {
    "dev-clean": Archive(12, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": Archive(12, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": Archive(12, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": Archive(12, "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": Archive(12, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": Archive(12, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": Archive(12, "d1a0fd59409feb2c614ce4d30c387708"),
    "train-clean-5": Archive(31, "5df7d4e78065366204ca6845bb08f490"),
    "dev-clean-2": Archive(31, "6d7ab67ac6a1d2c993d050e16d61080d"),
}


@dataclass(frozen=True)
class DownloadProgress:
    """Progress of a download: bytes done and in total (None: unknown), bytes per second, seconds left."""

    name: str
    done: int
    total: int | None
    rate: float

    @property
    def left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.total is not None and self.rate else None

    def line(self) -> str:
        """Return a line such as `train-clean-5.tar.gz 120 of 333 MB, 11.2 MB/s, 19 s left`."""
        size = f"{self.done / 1e6:.0f}" + (f" of {self.total / 1e6:.0f} MB" if self.total is not None else " MB")
        left = "" if self.left is None else f", {self.left:.0f} s left"
        return f"{self.name} {size}, {self.rate / 1e6:.1f} MB/s{left}"


def librispeech(
    subset: str,
    folder: str | os.PathLike,
    *,
    base: str = OPENSLR,
    archives: dict[str, Archive] = ARCHIVES,
    progress: Callable[[DownloadProgress], None] | None = None,
) -> Path:
    """Return `<folder>/LibriSpeech/<subset>`, downloaded and unpacked if it is missing.

    An existing archive `<folder>/<subset>.tar.gz` is used.  The archive is deleted after it is unpacked.
    """
    if subset not in archives:
        raise UserError(f"{subset!r} is not a part of LibriSpeech: give one of {', '.join(archives)}")
    folder = Path(folder)
    tree = folder / "LibriSpeech" / subset
    if tree.is_dir():
        return tree
    archive = archives[subset]
    packed = folder / f"{subset}.tar.gz"
    download(f"{base}/{archive.resource}/{packed.name}", packed, md5=archive.md5, progress=progress)
    unpack(packed, folder)
    if not tree.is_dir():
        raise UserError(f"{packed}: holds no LibriSpeech/{subset}: is it the archive of that name?")
    packed.unlink()
    return tree


def download(
    url: str,
    path: str | os.PathLike,
    *,
    md5: str | None = None,
    progress: Callable[[DownloadProgress], None] | None = None,
    retries: int = 5,
    timeout: float = 30.0,
) -> Path:
    """Download `url` to `path`, through `<path>.part`, which a later call resumes.

    A broken connection is resumed; after `retries` attempts in a row without a byte it is an error.  An existing file is
    verified and kept.  progress: called once per second and at the end.
    UserError without a network, for a missing file, a wrong checksum (the part is deleted) or a full disk.
    """
    path = Path(path)
    if path.exists():
        if md5 and _md5(path) != md5:
            raise UserError(f"{path}: is damaged (its md5 is not {md5}): delete it, and run this again to fetch it")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    log.info("fetching %s", url)
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, part, path.name, progress, timeout)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # no more bytes: the part is complete, or another file (see the md5)
                break
            if error.code < 500:
                raise UserError(_by_hand(url, path, f"the server says {error.code} {error.reason}")) from None
            reason: object = f"{error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", None) or error
        except OSError as error:
            raise UserError(
                f"{part}: cannot be written ({error.strerror}): make room, or choose another folder"
            ) from None
        failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
        if failures >= retries:
            raise UserError(_by_hand(url, path, str(reason)))
        log.warning("%s: %s: resuming from byte %d", url, reason, part.stat().st_size if part.exists() else 0)
        time.sleep(min(2.0**failures / 10, 10.0))
    if md5 and _md5(part) != md5:
        part.unlink()
        raise UserError(f"{url}: arrived damaged (its md5 is not {md5}) and was deleted: run this again")
    os.replace(part, path)
    return path


def _fetch(
    url: str, part: Path, name: str, progress: Callable[[DownloadProgress], None] | None, timeout: float
) -> None:
    """Append the missing bytes to `part`.  ConnectionError if fewer arrive than the server announced."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        if response.status != 206:  # the server sends the whole file again
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total is not None and total - have > (free := shutil.disk_usage(part.parent).free):
            raise UserError(
                f"{part.parent}: {free / 1e9:.1f} GB free, and {name} needs {(total - have) / 1e9:.1f} GB: "
                "make room, or choose another folder"
            )
        began = reported = time.monotonic()
        done = have
        with open(part, "ab" if have else "wb") as file:
            while block := response.read(1 << 18):
                file.write(block)
                done += len(block)
                now = time.monotonic()
                if progress and now - reported >= 1.0:
                    reported = now
                    progress(DownloadProgress(name, done, total, (done - have) / (now - began)))
        if total is not None and done < total:
            raise ConnectionError(f"the connection broke after {done} of {total} bytes")
        if progress:
            progress(DownloadProgress(name, done, total, (done - have) / max(time.monotonic() - began, 1e-9)))


def _by_hand(url: str, path: Path, reason: str) -> str:
    host = urllib.parse.urlsplit(url).netloc
    return (
        f"cannot download from {host} ({reason}): fetch {url} on another machine, put it at {path.absolute()} unchanged and "
        "run this again; or name an unpacked corpus with --source"
    )


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Unpack a tar file into `folder`, and merge with its content.

    A folder two levels down (LibriSpeech/train-clean-5) appears only when it is complete.  Only files and folders are
    unpacked.  Links, devices and paths outside the folder are errors.
    """
    archive, folder = Path(archive), Path(folder)
    part = folder / f".{archive.name}.unpacking"
    shutil.rmtree(part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        part.mkdir()
        with tarfile.open(archive) as tar:
            for entry in tar:  # not every Python 3.11 has tarfile's own filters
                _unpack_entry(tar, entry, part)
    except UserError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, OSError) as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            why = f"cannot be unpacked to {folder} ({error.strerror}): make room, or choose another folder"
        else:
            why = f"is damaged ({error}): delete it and fetch it again"
        raise UserError(f"{archive}: {why}") from None
    for top in part.iterdir():
        if not top.is_dir():
            os.replace(top, folder / top.name)
            continue
        (folder / top.name).mkdir(exist_ok=True)
        for entry in top.iterdir():
            target = folder / top.name / entry.name
            if not (entry.is_dir() and target.exists()):
                os.replace(entry, target)
    shutil.rmtree(part)


def _unpack_entry(tar: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    target = folder / os.path.normpath(entry.name)  # `/etc` stays `/etc`, and `a/../..` becomes `..`
    if not (entry.isfile() or entry.isdir()) or ".." in target.parts or not target.is_relative_to(folder):
        raise UserError(f"{tar.name}: not unpacked, {entry.name!r} is a link or would write outside its folder")
    (target if entry.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
    if entry.isfile() and (source := tar.extractfile(entry)) is not None:
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
