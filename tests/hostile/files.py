"""Paths that lead where no picture is, or where no worker may read."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from producer.reasons import Reason

DENIED, MISSING = Reason.PATH_DENIED, Reason.NOT_FOUND
SECRET = b"secret"


@dataclass(frozen=True)
class Place:
    """The image root of a test, with a picture `inner/a.jpg` in it, and what lies beside it."""

    root: Path
    outside: Path
    """A folder that no worker may read, with a file `secret` in it."""

    @classmethod
    def made(cls, folder: Path) -> Place:
        """Make both; the folder outside begins with the name of the root."""
        place = cls(folder / "pictures", folder / "pictures-private")
        (place.root / "inner").mkdir(parents=True)
        (place.root / "inner" / "a.jpg").write_bytes(b"picture")
        place.outside.mkdir()
        (place.outside / "secret").write_bytes(SECRET)
        return place


@dataclass(frozen=True)
class File:
    """A path, made in a place, and what has to become of it."""

    name: str
    path: Callable[[Place], str]
    reason: Reason | None
    """None: it is read."""
    root: Path | None = None
    """The image root, where it is not the place's."""


def table() -> list[File]:
    """Every case."""
    return [*_traversals(), *_links(), *_no_files(), *_system(), *_names(), *_sizes()]


def _in(place: Place, *, path: str) -> str:
    return f"{place.root}/{path}"


def _traversals() -> Iterator[File]:
    secret = "pictures-private/secret"
    for path in (
        *(
            f"../{secret}",
            f"inner/../../{secret}",
            f"./././../{secret}",
            f"inner//..//..//{secret}",
        ),
        *(f"missing/../../{secret}", f"inner/a.jpg/../../../{secret}", "../" * 50 + "etc/passwd"),
        *("..", "../", "inner/../.."),
    ):
        yield File(f"traversal {path[:40]}", partial(_in, path=path), DENIED)
    yield File("a folder that begins alike", lambda place: f"{place.outside}/secret", DENIED)
    yield File("a name that begins alike", lambda place: f"{place.root}-private/secret", DENIED)
    yield File("traversal that comes back", partial(_in, path="inner/../inner/a.jpg"), None)
    for path in ("..\\pictures-private\\secret", "%2e%2e/pictures-private/secret", "..%2fsecret"):
        yield File(f"not a traversal here: {path}", partial(_in, path=path), MISSING)
    for text in (
        "secret",
        "~/a.jpg",
        "$HOME/a.jpg",
        "file:///etc/passwd",
        "C:\\boot.ini",
        ".",
        " ",
    ):
        yield File(f"relative to who knows what: {text}", partial(_text, text=text), DENIED)


def _text(_place: Place, *, text: str) -> str:
    return text


def _links() -> Iterator[File]:
    yield File("link to a file outside", partial(_link, to="../pictures-private/secret"), DENIED)
    yield File("link to /etc/passwd", partial(_link, to="/etc/passwd"), DENIED)
    yield File("link to an environment", partial(_link, to="/proc/self/environ"), DENIED)
    yield File("link to a device", partial(_link, to="/dev/zero"), DENIED)
    yield File("link to itself", partial(_link, to="link.jpg"), DENIED)
    yield File("link to nowhere", partial(_link, to="missing.jpg"), MISSING)
    yield File("link to nowhere outside", partial(_link, to="../missing.jpg"), DENIED)
    yield File("link to a folder outside", _folder_link, DENIED)
    yield File("two links, each harmless by itself", _two_links, DENIED)
    yield File("forty-two links in a row", _many_links, None)
    yield File("link that stays inside", partial(_link, to="inner/a.jpg"), None)


def _link(place: Place, *, to: str) -> str:
    link = place.root / "link.jpg"
    link.symlink_to(to)
    return str(link)


def _folder_link(place: Place) -> str:
    (place.root / "away").symlink_to(place.outside)
    return f"{place.root}/away/secret"


def _two_links(place: Place) -> str:
    (place.root / "inner" / "up").symlink_to("..")
    (place.root / "over").symlink_to("inner/up/..")
    return f"{place.root}/over/{place.outside.name}/secret"


def _many_links(place: Place) -> str:
    names = [place.root / f"{number}.jpg" for number in range(42)]
    for link, to in zip(names, [*names[1:], place.root / "inner" / "a.jpg"], strict=True):
        link.symlink_to(to)
    return str(names[0])


def _no_files() -> Iterator[File]:
    yield File("fifo", _fifo, DENIED)
    yield File("socket", _socket, DENIED)
    yield File("link to a fifo", _linked_fifo, DENIED)
    yield File("folder", partial(_in, path="inner"), DENIED)
    yield File("the root", partial(_in, path=""), DENIED)
    devices = Path("/dev")
    for name in ("zero", "null", "random", "full", "tty", "stdin"):
        reason = DENIED if (devices / name).exists() else MISSING
        path = partial(_text, text=f"/dev/{name}")
        yield File(f"device {name} of a root /dev", path, reason, devices)


def _fifo(place: Place) -> str:
    os.mkfifo(place.root / "fifo.jpg")
    return f"{place.root}/fifo.jpg"


def _linked_fifo(place: Place) -> str:
    _fifo(place)
    return _link(place, to="fifo.jpg")


def _socket(place: Place) -> str:
    path = place.root / "s"
    here = os.open(place.root, os.O_RDONLY)
    try:
        # By way of its folder's descriptor: addresses of sockets are short, and those of tests are not.
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/s")
    finally:
        os.close(here)
    return str(path)


def _system() -> Iterator[File]:
    for path in (
        *("/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/self/mem", "/proc/1/environ"),
        *("/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/maps", "/proc/kcore", "/dev/stdin"),
        *("/dev/fd/0", "/dev/zero", "/sys/kernel/notes", "/", "//etc/passwd", "/proc/self/cwd"),
    ):
        yield File(path, partial(_text, text=path), DENIED)
    yield File("out by /proc", lambda place: f"/proc/self/root{place.outside}/secret", DENIED)
    yield File("in by /proc", lambda place: f"/proc/self/root{place.root}/inner/a.jpg", None)


def _names() -> Iterator[File]:
    for name, path in {
        "NUL at the end": "inner/a.jpg\0",
        "NUL and another ending": "inner/a.jpg\0.png",
        "NUL alone": "\0",
        "half a character": "\ud800.jpg",
    }.items():
        yield File(name, partial(_in, path=path), DENIED)
    for name, path in {
        "4 KB name": "x" * 4000,
        "4 KB of emoji": "\U0001f457" * 1000,
        "255 bytes and one": "x" * 256,
        "4 KB of folders": "a/" * 1900,
        "a file for a folder": "inner/a.jpg/b.jpg",
        "no valid UTF-8": "\udcff.jpg",
        "missing": "missing.jpg",
    }.items():
        yield File(name, partial(_in, path=path), MISSING)
    for name in (
        *("new\nline.jpg", "\u202egpj.exe", "-rf", "$(id).jpg", "'; DROP TABLE image; --"),
        *("\U0001f457.jpg", "a%00.jpg", " "),
    ):
        yield File(f"odd name {name!a}", partial(_named, name=name), None)


def _named(place: Place, *, name: str) -> str:
    (place.root / name).write_bytes(b"picture")
    return f"{place.root}/{name}"


def _sizes() -> Iterator[File]:
    yield File("a sparse file of 8 GB", partial(_sparse, size=8 << 30), Reason.TOO_LARGE)
    yield File(
        "a byte over the limit", partial(_sparse, size=25 * 1024 * 1024 + 1), Reason.TOO_LARGE
    )


def _sparse(place: Place, *, size: int) -> str:
    path = place.root / "sparse.jpg"
    path.touch()
    os.truncate(path, size)
    return str(path)
