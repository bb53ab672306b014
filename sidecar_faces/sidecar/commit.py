"""Read and replace small files so that nothing is torn and nobody's save is lost.

A file is written under a temporary name of ours, synced, and exchanged with what stands there
(`RENAME_EXCHANGE`); what comes out must be what was read before, or it is put back and `ChangedError` raised.
Where the file system cannot exchange, the old file is renamed aside and the new one linked without replacing
anything; the name that it is put aside under tells whose it is, so that a run that was killed in between is
mended by the next reading. All names are looked up in a folder that was opened once.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sidecar_faces.errors import DiskFullError, SidecarError
from sidecar_faces.log import printable

MAX_BYTES = 16 << 20
"""Of a sidecar or landmark file; beyond it is not one."""

_TEMP = re.compile(r"\.sidecar-faces-[0-9a-f]{16}\.tmp")
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_libc = ctypes.CDLL(None, use_errno=True)


class ChangedError(Exception):
    """Somebody else wrote the file since it was read; what they wrote stands."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file as it was read: content, and the status that tells whether it is still that file."""

    data: bytes
    status: os.stat_result


def rename(folder: int, old: str, new: str, flags: int) -> None:
    """renameat2(2) within one open folder. Raises OSError."""
    done = _libc.renameat2(folder, os.fsencode(old), folder, os.fsencode(new), flags)
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Turn errors of the system into a sentence that names the file and what to do."""
    try:
        yield
    except OSError as error:
        raise _explained(path, error) from error


def _explained(path: str, error: OSError) -> SidecarError | DiskFullError:
    name, folder = printable(path), printable(os.path.dirname(path))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{folder}: no space is left; make room and run again. Nothing was torn.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SidecarError(f"{name}: may not be written; allow it, or use --sidecar-dir for another folder.")
    if error.errno == errno.ENAMETOOLONG:
        return SidecarError(f"{name}: this name is too long for the file system; shorten the photo's name.")
    return SidecarError(f"{name}: {os.strerror(error.errno or errno.EIO)}.")


class Folder:
    """One open folder of a library; every name below is looked up in it, whatever its path becomes."""

    def __init__(self, path: str, within: str, *, create: bool = False) -> None:
        """Open `path`. Raises FileNotFoundError, or SidecarError where links lead out of `within`."""
        self.path = path
        if create:
            with _told(os.path.join(path, "*")):
                os.makedirs(path, exist_ok=True)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise _explained(path, error) from error
        real, base = os.path.realpath(path), os.path.join(os.path.realpath(within), "")
        if not os.path.join(real, "").startswith(base):
            self.close()
            raise SidecarError(f"{printable(path)}: a link leads out of {printable(within)}.")

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def holds(self, name: str) -> bool:
        """Whether a file of that name is in this very folder."""
        return self._exists(name)

    def read(self, name: str) -> Snapshot | None:
        """The file; None where there is none. Raises SidecarError where it is none that we may edit."""
        path = os.path.join(self.path, name)
        with _told(path):
            self._mend(name)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise SidecarError(f"{printable(path)}: is a link; only real files are edited.") from None
            if error.errno == errno.EACCES:
                raise SidecarError(f"{printable(path)}: may not be read; allow it.") from None
            raise _explained(path, error) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise SidecarError(f"{printable(path)}: is not a regular file; move it away.")
        with os.fdopen(fd, "rb") as file, _told(path):
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SidecarError(
                f"{printable(path)}: is larger than {MAX_BYTES >> 20} MiB; it was left as it is."
            )
        return Snapshot(data, status)

    def write(self, name: str, data: bytes, expected: Snapshot | None) -> Snapshot:
        """Put `data` in the place of `expected` (None: of nothing); returns it as it stands there.

        Raises ChangedError where something else stands there, SidecarError, DiskFullError.
        """
        path = os.path.join(self.path, name)
        with _told(path):
            if expected is not None:
                self.refuse_protected(name, expected)
            temp = self._temporary(data, expected)
            try:
                status = os.lstat(temp, dir_fd=self.fd)
                if expected is None:
                    self._place_new(temp, name)
                else:
                    self._place(temp, name, expected)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temp, dir_fd=self.fd)
                raise
        return Snapshot(data, status)

    def remove(self, name: str, expected: Snapshot) -> None:
        """Delete the file if it is still `expected`. Raises as `write` does."""
        with _told(os.path.join(self.path, name)):
            self.refuse_protected(name, expected)
            aside = self._put_aside(name, expected)
            os.unlink(aside, dir_fd=self.fd)

    def sync(self) -> None:
        """Make renames durable."""
        with _told(os.path.join(self.path, "*")), suppress(NotImplementedError):
            os.fsync(self.fd)

    def sweep(self, older_than: float) -> int:
        """Delete temporary files of ours that nobody touched since that time (seconds); how many."""
        swept = 0
        with os.scandir(self.fd) as entries:
            ours = [entry.name for entry in entries if _TEMP.fullmatch(entry.name)]
        for name in ours:
            with suppress(OSError):
                status = os.lstat(name, dir_fd=self.fd)
                if stat.S_ISREG(status.st_mode) and max(status.st_mtime, status.st_ctime) < older_than:
                    os.unlink(name, dir_fd=self.fd)
                    swept += 1
        return swept

    def refuse_protected(self, name: str, expected: Snapshot) -> None:
        """Raises SidecarError for a file without write permission, which an exchange would ignore."""
        writable = os.access(
            name, os.W_OK, dir_fd=self.fd, effective_ids=os.access in os.supports_effective_ids
        )
        if not expected.status.st_mode & 0o222 or (not writable and self._exists(name)):
            path = printable(os.path.join(self.path, name))
            raise SidecarError(
                f"{path}: is write-protected and was left as it is; allow writing, or use --sidecar-dir."
            )

    def _exists(self, name: str) -> bool:
        try:
            os.lstat(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def _temporary(self, data: bytes, like: Snapshot | None) -> str:
        """A new file with the data, synced, with mode, owner and attributes of the file that it replaces."""
        name = f".sidecar-faces-{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o666 if like is None else 0o600, dir_fd=self.fd)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) or 0 :]
                if like is not None:
                    with suppress(OSError):
                        os.fchown(fd, like.status.st_uid, like.status.st_gid)
                    os.fchmod(fd, stat.S_IMODE(like.status.st_mode))
                os.fsync(fd)
        except BaseException:
            os.unlink(name, dir_fd=self.fd)
            raise
        return name

    def _place_new(self, temp: str, name: str) -> None:
        try:
            try:
                rename(self.fd, temp, name, _NOREPLACE)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                os.link(temp, name, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
                os.unlink(temp, dir_fd=self.fd)
        except FileExistsError:
            raise ChangedError(name) from None

    def _place(self, temp: str, name: str, expected: Snapshot) -> None:
        ours, wanted = self._identity(temp), _identity(expected.status)
        try:
            # what is seen to have changed now need not be exchanged and put back, in anybody's sight
            if self._identity(name) != wanted:
                raise ChangedError(name)
            rename(self.fd, temp, name, _EXCHANGE)
        except FileNotFoundError:
            raise ChangedError(name) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return self._place_without_exchange(temp, name, expected)
        # the quick look first: until a newer save is back in its place, others see one that is older than it
        if self._identity(temp) != wanted or not self._is(temp, expected):
            self._put_back(temp, name, ours)
            raise ChangedError(name)
        os.unlink(temp, dir_fd=self.fd)
        return None

    def _put_back(self, temp: str, name: str, placed: tuple[int, ...]) -> None:
        """Exchange until what comes out is what was put there before it: then the newest save stands."""
        while True:
            going = self._identity(temp)
            try:
                rename(self.fd, temp, name, _EXCHANGE)
            except FileNotFoundError:  # ours was deleted meanwhile
                return rename(self.fd, temp, name, _NOREPLACE)
            if self._identity(temp) == placed:
                return None
            placed = going  # somebody saved over it: that save is newer than the one just put back

    def _identity(self, name: str) -> tuple[int, ...]:
        return _identity(os.lstat(name, dir_fd=self.fd))

    def _place_without_exchange(self, temp: str, name: str, expected: Snapshot) -> None:
        aside = self._put_aside(name, expected)
        try:
            self._place_new(temp, name)
        except ChangedError:
            os.unlink(aside, dir_fd=self.fd)  # a newer save stands there
            raise
        except BaseException:
            self._mend(name)
            raise
        os.unlink(aside, dir_fd=self.fd)

    def _put_aside(self, name: str, expected: Snapshot) -> str:
        """Take the file out of its place. Raises ChangedError where it is not `expected`; then it stands."""
        aside = _aside(name)
        try:
            if self._identity(name) != _identity(expected.status):
                raise ChangedError(name)
            os.rename(name, aside, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except FileNotFoundError:
            raise ChangedError(name) from None
        if not self._is(aside, expected):
            self._mend(name)
            raise ChangedError(name)
        return aside

    def _mend(self, name: str) -> None:
        """Put back what a run put aside that was killed; where a newer file stands, that one counts."""
        aside = _aside(name)
        try:
            os.lstat(aside, dir_fd=self.fd)
        except OSError:
            return
        with suppress(ChangedError):
            self._place_new(aside, name)
            return
        os.unlink(aside, dir_fd=self.fd)

    def _is(self, name: str, expected: Snapshot) -> bool:
        """Whether a file that was taken out is the one that was read, and nobody is writing into it."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return False
        with os.fdopen(fd, "rb") as file:
            leased = _lease(fd)
            status = os.fstat(fd)
            same = (status.st_dev, status.st_ino) == (expected.status.st_dev, expected.status.st_ino)
            unchanged = same and file.read(MAX_BYTES + 1) == expected.data
            return unchanged and leased is not False and (not leased or _is_leased(fd))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from another; not ctime, which renaming changes."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _lease(fd: int) -> bool | None:
    """Ask the kernel for a read lease, which it refuses (False) while anybody has the file open for writing.

    None where there are no leases here. Whoever breaks it sends SIGURG, which is ignored by default.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


def _is_leased(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def _aside(name: str) -> str:
    return f".sidecar-faces-aside-{hashlib.sha256(os.fsencode(name)).hexdigest()[:24]}.tmp"


def can_exchange(folder: str) -> bool:
    """Whether the file system of a folder knows RENAME_EXCHANGE, found out with two files of our own."""
    one, two = (f".sidecar-faces-{secrets.token_hex(8)}.tmp" for _ in "ab")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in (one, two):
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd))
        rename(fd, one, two, _EXCHANGE)
    except OSError:
        return False
    else:
        return True
    finally:
        for name in (one, two):
            with suppress(OSError):
                os.unlink(name, dir_fd=fd)
        os.close(fd)
