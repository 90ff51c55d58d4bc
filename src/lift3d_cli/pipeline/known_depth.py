"""The depth that a scene's photos come with: understood and checked once, then read photo by photo."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lift3d_cli.cache.format import key_of
from lift3d_cli.errors import CacheError, SceneError
from lift3d_cli.scene.bounds import depth_range
from lift3d_cli.scene.depth_check import (
    MIN_POINTS,
    agreement,
    are_believed,
    find_meaning,
    gather_evidence,
    is_affine,
)
from lift3d_cli.scene.depth_maps import DEPTH_KINDS, Meaning, read_depth_map, z_depth
from lift3d_cli.scene.depth_photometry import (
    MIN_AGREEMENT,
    WRONG_SCALES,
    Picture,
    agreement_by_photos,
    find_meaning_by_photos,
    picture_of,
    scale_scores,
)
from lift3d_cli.scene.scene import KnownDepth
from lift3d_cli.scene.triangulation import neighbour_pairs

if TYPE_CHECKING:
    from lift3d_cli.pipeline.workspace import Workspace

# Version of the readers and of the check; to be raised when the same file gives another depth.
_VERSION = 1
# Where photos judge: maps that the meaning is searched with, neighbours of each, pictures in memory of 4 MB each.
_MAPS_TRIED, _NEIGHBOURS, _PICTURES_KEPT = 6, 4, 32
_WARNINGS = 3


@dataclass(frozen=True)
class _Judgement:
    """The judgement of maps that are understood in the same way.

    Args:
        meaning: kind and scale of their values.
        believed: [V] bool, True where a photo's map is used.
        shares: [V] agreement of each map, NaN where nothing tells.
        is_affine: True if each map fits only with a scale and a shift of its own.
    """

    meaning: Meaning
    believed: np.ndarray
    shares: np.ndarray
    is_affine: bool = False


class KnownDepths:
    """The depth of a workspace's photos by index.

    Args:
        workspace: the scene.
        hidden: indices of left-out photos: they have no depth, and nothing is judged by them.
    """

    def __init__(self, workspace: Workspace, hidden: frozenset[int]) -> None:
        self._workspace = workspace
        self._views = workspace.scene.views
        self._visible = [i for i in range(len(self._views)) if i not in hidden]
        self._all_visible = not hidden

    def read(self, index: int) -> KnownDepth | None:
        """See `Workspace.known_depth`."""
        if not self.key(index):
            return None
        view = self._views[index]
        return KnownDepth(z_depth(read_depth_map(view), self._judgement_of(index).meaning, view.camera))

    def key(self, index: int) -> str:
        """See `Workspace.depth_key`."""
        if not self._has_file(index) or not self._judgement_of(index).believed[index]:
            return ""
        meaning = self._judgement_of(index).meaning
        return key_of("depth", {**self._ingredients(index), "kind": meaning.kind, "scale": meaning.scale})

    def warnings(self) -> tuple[str, ...]:
        """See `Workspace.depth_warnings`."""
        lines = []
        for group, judged in zip(self._groups, self._judgements, strict=True):
            folder = self._views[group[0]].depth_file.path.parent
            bad = [i for i in group if not judged.believed[i]]
            if len(bad) == len(group):
                lines.append(f"{self._problem(group, judged)}; it is not used")
                continue
            if judged.meaning != Meaning():
                lines.append(f"{folder}: the photos say that {self._formula(group[0])} here, and so it is used")
            lines += [
                f"{self._views[i].depth_file.path}: contradicts the photos ({self._share(judged, i)}); "
                f"{self._views[i].name} is used without its depth"
                for i in bad[:_WARNINGS]
            ]
            if len(bad) > _WARNINGS:
                lines.append(f"{folder}: {len(bad) - _WARNINGS} more depth files contradict the photos")
        return tuple(lines)

    @functools.cached_property
    def _groups(self) -> list[list[int]]:
        """Photos whose maps are understood alike: those whose meaning is settled, and the others."""
        kinds: dict[bool, list[int]] = {}
        for index in self._visible:
            if self._has_file(index):
                kinds.setdefault(self._views[index].depth_file.is_settled, []).append(index)
        return list(kinds.values())

    def _has_file(self, index: int) -> bool:
        return index in self._visible and self._views[index].depth_file is not None

    def _judgement_of(self, index: int) -> _Judgement:
        return next(judged for group, judged in zip(self._groups, self._judgements, strict=True) if index in group)

    @functools.cached_property
    def _judgements(self) -> list[_Judgement]:
        """Judgement of each group; kept in the cache.

        Raises:
            SceneError: if all maps of a group that somebody named contradict the photos.
        """
        judgements = [self._recalled(group) for group in self._groups]
        for group, judged in zip(self._groups, judgements, strict=True):
            if not judged.believed[group].any() and not self._views[group[0]].depth_file.is_found:
                raise SceneError(self._problem(group, judged))
        return judgements

    def _recalled(self, group: Sequence[int]) -> _Judgement:
        cache = self._workspace.cache
        if cache is None:
            return self._judge(group)
        photos = [[self._workspace.record(i).key, self._views[i].camera.w2c.tolist()] for i in self._visible]
        key = key_of("depth-check", {"files": [self._ingredients(i) for i in group], "photos": photos})
        try:
            stored = cache.read_arrays("depth-check", key)
            meaning = Meaning(DEPTH_KINDS[int(stored["kind"][0])], float(stored["scale"][0]))
            return _Judgement(meaning, stored["believed"], stored["shares"], bool(stored["is_affine"][0]))
        except (CacheError, KeyError, IndexError):
            judged = self._judge(group)
            arrays = {"believed": judged.believed, "shares": judged.shares, "is_affine": np.array([judged.is_affine])}
            kind, scale = DEPTH_KINDS.index(judged.meaning.kind), judged.meaning.scale
            arrays |= {"kind": np.array([kind]), "scale": np.array([scale])}
            cache.write_arrays("depth-check", key, arrays)
            return judged

    def _judge(self, group: Sequence[int]) -> _Judgement:
        """Look at all maps of a group, one at a time."""
        points = self._workspace.points(None if self._all_visible else self._visible)
        evidence = [gather_evidence(self._views[i].camera, read_depth_map(self._views[i]), points) for i in group]
        shares, believed = np.full(len(self._views), np.nan), np.zeros(len(self._views), dtype=bool)
        is_settled = self._views[group[0]].depth_file.is_settled
        if np.median([len(each.z) for each in evidence]) >= MIN_POINTS:
            meaning = Meaning() if is_settled else find_meaning(evidence)
            shares[group] = [agreement(each, meaning) for each in evidence]
            believed[group] = are_believed(shares[group])
        else:
            meaning, shares[group] = self._judge_by_photos(group, points, is_settled)
            believed[group] = are_believed(shares[group], MIN_AGREEMENT, of_usual=0.0)
        return _Judgement(meaning, believed, shares, not believed.any() and is_affine(evidence))

    def _judge_by_photos(
        self, group: Sequence[int], points: np.ndarray, is_settled: bool
    ) -> tuple[Meaning, np.ndarray]:
        """Find the meaning and the agreement of each map where a scene has too few points."""
        near: dict[int, list[int]] = {i: [] for i in self._visible}
        views = [self._views[i] for i in self._visible]
        for a, b in neighbour_pairs(views) if len(views) > 1 else []:
            near[self._visible[a]].append(self._visible[b])
            near[self._visible[b]].append(self._visible[a])

        @functools.lru_cache(maxsize=_PICTURES_KEPT)
        def picture(index: int) -> Picture:
            return picture_of(self._workspace.photo(index), self._views[index].camera)

        def parts(index: int) -> tuple:
            return read_depth_map(self._views[index]), picture(index), [picture(j) for j in near[index][:_NEIGHBOURS]]

        meaning = Meaning()
        if not is_settled:
            tried = list(group)[:: -(-len(group) // _MAPS_TRIED)]
            maps, pictures, neighbours = zip(*map(parts, tried), strict=True)
            ranges = [depth_range(self._views[i].camera, points, self._views) for i in tried]
            meaning = find_meaning_by_photos(maps, pictures, neighbours, ranges)
        scales = meaning.scale * np.concatenate([[1.0], WRONG_SCALES])
        scores = []
        for index in group:
            stored, own, neighbours = parts(index)
            scores.append(scale_scores(stored, meaning.kind, scales, own, neighbours))
        scores = np.array(scores)
        return meaning, agreement_by_photos(scores[:, 0], scores[:, 1:].max(axis=1))

    def _ingredients(self, index: int) -> dict[str, object]:
        """List all that a photo's map is made of."""
        file = self._views[index].depth_file
        return {
            "version": _VERSION,
            "file": self._workspace.sha256(file.path),
            "photo": self._workspace.record(index).key,
            "unit": file.unit,
            "lens": file.camera and [file.camera.K.tolist(), file.camera.width, file.camera.height],
            "is_undistorted": file.is_undistorted,
            "is_settled": file.is_settled,
        }

    def _problem(self, group: Sequence[int], judged: _Judgement) -> str:
        """Say what is wrong where no map of a group can be used."""
        file = self._views[group[0]].depth_file
        if judged.is_affine:
            return (
                f"{file.path.parent}: the scale and shift of each depth map are its own, as networks for single photos "
                "give them, so their surfaces do not meet. hint: use a network that takes all photos, such as VGGT"
            )
        if file.is_settled:
            return (
                f"{file.path}: does not lie where the photos show surfaces. "
                "hint: it must be in the world of the scene's poses, at the same scale"
            )
        return (
            f"{file.path.parent}: none of the {len(group)} depth maps agrees with the photos, neither as z-depth nor "
            "as distance or inverse depth, at any scale. hint: are they of these photos, and the poses right?"
        )

    def _formula(self, index: int) -> str:
        """Write how a photo's stored values are understood."""
        meaning, unit = self._judgement_of(index).meaning, read_depth_map(self._views[index]).unit
        if meaning.kind == "inverse depth":
            return f"z-depth = {meaning.scale / unit:.4g} / value"
        return f"{meaning.kind} = {meaning.scale * unit:.4g} * value"

    def _share(self, judged: _Judgement, index: int) -> str:
        share = judged.shares[index]
        return "nothing confirms it" if np.isnan(share) else f"{share:.0%} of what speaks for or against it agrees"
