"""Finds the photos that a scene's file lists, however they were moved and renamed since; sorts as people read."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from lift3d_cli.scene.photos import PHOTO_SUFFIXES, UNREAD_SUFFIXES

# A path of more parts is no photo's.
_MAX_PARTS = 64
_REDUCED = re.compile(r"(images)(?:_([0-9]+))?", re.IGNORECASE)


def natural_key(name: str) -> tuple:
    """Return a key that sorts numbers in names by value, and ignores case: `r_2` comes before `r_10`."""
    levels = [re.split(r"([0-9]+)", level) for level in _folded(name).split("/")]
    return [[int(part) if i % 2 else part for i, part in enumerate(level)] for level in levels], name


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return the name, or if it is taken, with a number before its ending; case does not tell two names apart."""
    path, number, free, names = PurePosixPath(name), 1, name, {_folded(other) for other in taken}
    while _folded(free) in names:
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
    return free


def list_photos(folder: Path) -> list[Path]:
    """List all photos directly in a folder, in natural order; none if the folder does not exist."""
    if not os.path.isdir(folder):
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and not p.name.startswith("."))
    return sorted(found, key=lambda path: natural_key(path.name))


def photo_folders(parent: Path, name: str = "images") -> list[Path]:
    """List the folders that a name may mean, whatever its case: itself, then reduced copies (`images_2`, ...)."""
    found: dict[Path, int] = {}
    wanted = _REDUCED.fullmatch(name)
    for folder in parent.iterdir() if os.path.isdir(parent) else ():
        copy = _REDUCED.fullmatch(folder.name)
        if _folded(folder.name) == _folded(name) and folder.is_dir():
            found[folder] = 0
        elif wanted and copy and folder.is_dir():
            found[folder] = int(copy[2] or 1)
    return sorted(found, key=found.__getitem__)


def reduction(listed_path: str, photo: Path) -> float:
    """Return how many times smaller than the listed photo the one is that was found, by the names of the folders."""
    listed, found = (_REDUCED.fullmatch(name) for name in (PurePosixPath(listed_path).parent.name, photo.parent.name))
    return int(found[2] or 1) / int(listed[2] or 1) if found and listed else 1.0


class PhotoFinder:
    """Finds photos by the paths that a scene's file lists.

    A path counts from the scene's folder, or from one of `folders`. It need not have the case, the unicode form or
    the ending of the file, may have backslashes and folders of another computer before it, and `images` stands for
    `images_2`, ... where only that is there.

    Args:
        root: folder of the scene.
        listed: all paths that the file lists. A photo that one of them names exactly is not found for another.
        folders: further folders that paths may count from, the first first.
    """

    def __init__(self, root: Path, listed: Iterable[str], folders: Sequence[Path] = ()) -> None:
        self.root = root
        self._bases = tuple(dict.fromkeys((*folders, root, *photo_folders(root))))
        self._indexes: dict[Path, _FolderIndex] = {}
        self._named: dict[tuple[Path, str], list[Path]] = {}
        self._places: dict[tuple[str, ...], _Places] = {}
        self._listings: dict[str, list[tuple[str, set[str] | None]]] = {}
        self._exact_photos = {name: self._exact(name) for name in listed}
        self._taken = {photo for photo in self._exact_photos.values() if photo is not None}

    def find(self, listed_path: str) -> Path | None:
        """Find the photo of one listed path; None if it is not there."""
        exact = self._exact_photos[listed_path] if listed_path in self._exact_photos else self._exact(listed_path)
        if exact is not None:
            return exact
        *parents, name = [part for part in _slashed(listed_path).split("/") if part not in ("", ".")] or [""]
        if len(parents) >= _MAX_PARTS:
            return None
        places = self._places_of(tuple(parents))
        wanted = _folded(name)
        if places.stems.isdisjoint((wanted, os.path.splitext(wanted)[0])):
            return None
        photos = (index.photo(wanted) for index in places.indexes)
        return next((photo for photo in photos if photo is not None and photo not in self._taken), None)

    def _places_of(self, parents: tuple[str, ...]) -> _Places:
        """Return where photos may be that are listed in a folder; found once, as a file may list 100,000 in it."""
        if parents not in self._places:
            tails = [parents, *([p for p in parents[start:] if p != ".."] for start in range(1, len(parents) + 1))]
            folders = (f for tail in tails for base in self._bases for f in self._folders(base, tail))
            self._places[parents] = _Places([self._index(folder) for folder in dict.fromkeys(folders)])
        return self._places[parents]

    def near_miss(self, listed_path: str) -> str:
        """Say where a path was looked for, and which photos are there instead."""
        parents = [(self.root / _slashed(listed_path)).parent, *self._bases]
        said = []
        for folder in dict.fromkeys(map(os.path.normpath, parents)):
            if photos := [photo.name for photo in list_photos(Path(folder))]:
                name = PurePosixPath(_slashed(listed_path)).name
                like = (difflib.get_close_matches(name, photos, 1, 0.0) or photos)[0]
                said.append(f"{folder} ({len(photos)} photos, such as {like})")
        return f"looked in {', '.join(said)}" if said else f"looked in {self.root} and images/ there, without a photo"

    def _exact(self, listed_path: str) -> Path | None:
        # Strings, and each folder read once: a file may list 100,000 photos that are absent.
        parent, slash, name = _slashed(listed_path).rpartition("/")
        if parent not in self._listings:
            folders = [os.path.join(base, parent + slash) for base in self._bases]
            self._listings[parent] = [(folder, _listing(folder)) for folder in folders]
        for folder, names in self._listings[parent]:
            if (names is None or name in names) and os.path.isfile(folder + name):
                return Path(folder + name)
        return None

    def _folders(self, base: Path, parts: Sequence[str]) -> Iterator[Path]:
        """Yield the folders that a path may mean, with the reduced ones that stand for `images`."""
        if not parts:
            yield base
            return
        if parts[0] == "..":
            yield from self._folders(base.parent, parts[1:])
            return
        if (base, parts[0]) not in self._named:
            self._named[base, parts[0]] = photo_folders(base, parts[0])
        for folder in self._named[base, parts[0]]:
            yield from self._folders(folder, parts[1:])

    def _index(self, folder: Path) -> _FolderIndex:
        return self._indexes.setdefault(folder, _FolderIndex(folder))


class _Places:
    """Folders that a photo is looked for in, the first first, and the folded names of all files there."""

    def __init__(self, indexes: Sequence[_FolderIndex]) -> None:
        self.indexes = indexes
        self.stems: set[str] = set().union(*(index.stems for index in indexes))


class _FolderIndex:
    """The names in one folder, read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _entries(self) -> list[os.DirEntry]:
        try:
            return sorted(os.scandir(self.folder), key=lambda entry: natural_key(entry.name))
        except OSError:
            return []

    @cached_property
    def _files(self) -> dict[str, Path]:
        # A link to itself makes `DirEntry.is_file` fail.
        found = (e.name for e in self._entries if e.is_file(follow_symlinks=False) or os.path.isfile(e.path))
        return {_folded(name): self.folder / name for name in found if name[0] != "."}

    @cached_property
    def stems(self) -> set[str]:
        """The folded names of the files, with and without their endings."""
        return {os.path.splitext(name)[0] for name in self._files} | self._files.keys()

    def photo(self, wanted: str) -> Path | None:
        """Find a photo by its folded name, or by that with another ending."""
        if wanted in self._files and PurePosixPath(wanted).suffix in (*PHOTO_SUFFIXES, *UNREAD_SUFFIXES):
            return self._files[wanted]
        stem, suffix = os.path.splitext(wanted)
        stems = (wanted, stem) if suffix in (*PHOTO_SUFFIXES, *UNREAD_SUFFIXES) else (wanted,)
        names = (each + ending for each in stems for ending in PHOTO_SUFFIXES)
        return next((self._files[each] for each in names if each in self._files), None)


def _listing(folder: str) -> set[str] | None:
    """Return the names in a folder; None if they cannot be listed, though a file there may be opened."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError):
        return None


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
