"""Tasks that need only features of a model: pictures of them, and segmentation by strokes or clusters.

Both are brought to the picture's resolution by its edges. Strokes grow by features, and by place in the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, DecodeOptions, Decoder, FeatureMap, Model, RenderedView, Segmentation
from lift3d_cli.models.edges import at_picture, class_scores

# How many frames, evenly spread, and how many of their cells the shared parts of a task are computed from.
_MAX_FRAMES, _MAX_CELLS = 32, 20_000
# Stroke pixels per class that a classifier is trained on, and the weight of its regularization.
_MAX_STROKE_PIXELS, _RIDGE = 4000, 1e-3
_MIN_STROKES = 2
# A colour of fewer of the painted pixels than this is the soft edge of a stroke.
_LEAST_OF_COLOR = 0.02
_SAME_SHAPE = 0.02
_KMEANS_ROUNDS = 50
# Cells of all frames that vote on the class of places near them, and how many vote on each. On four real scenes the
# votes were worth -0.01 to 0.06 IoU, alike for 8 and 32 of 10,000 cells.
_MAX_VOTERS, _NEIGHBOURS, _PLACES_AT_ONCE = 5000, 8, 4096


class FeatureModel(Model):
    """A model without a decoder: tasks `features` and `segment` use only the features of all frames."""

    def decoder(self, context: DecodeContext) -> Decoder:
        """Segment by strokes, clusters or `segment_by_text`, or show features; see `Model`."""
        options = context.options
        if context.task == "features":
            return principal_colors(context.frames)
        if options.text:
            return self.segment_by_text(context)
        if options.strokes is not None:
            return segment_strokes(context)
        if options.clusters:
            return segment_clusters(context.frames, options.clusters)
        raise ModelError(
            f"model {self.spec.name}: segment into what? hint: --strokes strokes.png --view PHOTO, --clusters 5"
            + (", or --text WORDS" if type(self).segment_by_text is not FeatureModel.segment_by_text else "")
        )

    def segment_by_text(self, context: DecodeContext) -> Decoder:
        """Segment by prompts; for models with a text encoder."""
        raise ModelError(
            f"model {self.spec.name}: knows no words. hint: --strokes, --clusters; for --text, a model such as clipseg"
        )

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Show one frame's features, in colours of its own; `decoder` gives all frames the same colours."""
        return self.decoder(DecodeContext(task, DecodeOptions(), [features], _no_photo, [view]))(features, view)


def _no_photo(name: str) -> tuple[FeatureMap, Tensor]:
    raise ModelError(f"no photo {name}")


def principal_colors(frames: Sequence[FeatureMap]) -> Decoder:
    """Show the three leading principal components of all frames' features as red, green and blue."""
    cells = sample_cells(frames)
    mean = cells.mean(0)
    cells -= mean
    covariance = cells.T @ cells / len(cells)
    basis = torch.linalg.eigh(covariance.double())[1].flip(1)[:, :3].to(cells)
    # An eigenvector's sign is arbitrary; this choice is the same on all machines.
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    projected = cells @ basis
    low, high = projected.quantile(0.01, 0), projected.quantile(0.99, 0)
    if basis.shape[1] < 3:  # one or two channels: repeat the last one
        again = torch.tensor([*range(basis.shape[1]), *[basis.shape[1] - 1] * 3][:3], device=basis.device)
        basis, low, high = basis[:, again], low[again], high[again]

    def decode(features: FeatureMap, view: RenderedView) -> Tensor:
        colors = torch.einsum("chw,ck->khw", features.data - mean[:, None, None], basis)
        colors = (colors - low[:, None, None]) / (high - low).clamp(min=1e-6)[:, None, None]
        return at_picture(FeatureMap(colors, features.grid), view.image).clamp(0, 1)

    return decode


def segment_clusters(frames: Sequence[FeatureMap], num_clusters: int) -> Decoder:
    """Segment by k-means over all frames' features, by direction from their mean (as is common for ViT features)."""
    cells = sample_cells(frames)
    if not 2 <= num_clusters <= len(cells):
        raise ModelError(f"--clusters {num_clusters}: from 2 to the number of cells, {len(cells)}")
    mean = cells.mean(0)
    directions = _directions(cells, mean)
    centers = _kmeans(directions, num_clusters)
    # The distance at which two clusters are clearly different: the typical distance between cells of one cluster.
    distances = torch.cdist(directions, centers, compute_mode="donot_use_mm_for_euclid_dist")
    spread = distances.amin(1).square().mean().clamp(min=1e-6)
    names = tuple(f"cluster {i + 1}" for i in range(num_clusters))

    def score(rows: Tensor) -> Tensor:  # [N, C] to [N, K]
        return 2 * _directions(rows, mean) @ centers.T / spread - centers.square().sum(1) / spread

    return _segmenter(lambda features: _cellwise(score, features), names, ())


def segment_strokes(context: DecodeContext) -> Decoder:
    """Segment by strokes that the user painted on a photo: logistic regression on the features below them.

    Where the frames' cells have points, a cell's score is averaged with that of the nearest cells of all frames: what
    is at one place is one thing, whatever one frame shows of it.

    Raises:
        ModelError: if there are no strokes of two colours.
    """
    features, image = context.photo(context.options.strokes_view)
    strokes = context.options.strokes
    shapes = strokes.shape[1] / strokes.shape[0], image.shape[2] / image.shape[1]
    if abs(shapes[0] / shapes[1] - 1) > _SAME_SHAPE:
        raise ModelError(
            f"--strokes: the picture is {strokes.shape[1]}x{strokes.shape[0]}, the photo {image.shape[2]}x"
            f"{image.shape[1]}. hint: paint on a copy of the photo's shape"
        )
    colors, classes, uv = _painted(strokes, image.shape[2], image.shape[1])
    if len(colors) < _MIN_STROKES:
        raise ModelError(
            f"--strokes: {len(colors)} colour painted. hint: paint each class in a colour of its own, and what is "
            "none of them in one more; black or transparent is not painted. Save as PNG, a JPEG has no pure colours"
        )
    rows = features.at(uv + 0.5).T.float()
    mean = features.data.float().flatten(1).mean(1)
    classes = classes.to(rows.device)
    weight, bias = _logistic_regression(_directions(rows, mean), classes, len(colors))
    names = tuple("#{:02x}{:02x}{:02x}".format(*color) for color in colors)

    def score(features: FeatureMap) -> Tensor:
        return _cellwise(lambda rows: _directions(rows, mean) @ weight.T + bias, features)

    votes = _votes(context.frames, score)
    return _segmenter(score if votes is None else lambda features: votes(features, score(features)), names, colors)


def _votes(
    frames: Sequence[FeatureMap], score: Callable[[FeatureMap], Tensor]
) -> Callable[[FeatureMap, Tensor], Tensor] | None:
    """Return what averages a map's scores [K, h, w] with those of the nearest places; None where no place is known."""
    spread = (frames[index] for index in evenly_spread(len(frames), _MAX_FRAMES))
    maps = [frame for frame in spread if frame.points is not None]
    cells = [torch.cat([frame.points, score(frame)]).flatten(1).T for frame in maps]
    voters = torch.cat([rows[~rows.isnan().any(1)] for rows in cells]) if cells else torch.empty(0)
    if len(voters) < _NEIGHBOURS:
        return None
    order = torch.randperm(len(voters), generator=torch.Generator().manual_seed(0))[:_MAX_VOTERS]
    voters = voters[order.to(voters.device)]

    def vote(features: FeatureMap, scores: Tensor) -> Tensor:
        if features.points is None:
            return scores
        near = [
            voters[torch.cdist(places, voters[:, :3]).topk(_NEIGHBOURS, largest=False).indices, 3:].mean(1)
            for places in features.points.flatten(1).T.split(_PLACES_AT_ONCE)
        ]
        voted = (scores + torch.cat(near).T.reshape(scores.shape)) / 2
        return torch.where(features.points.isnan().any(0), scores, voted)

    return vote


def sample_cells(frames: Sequence[FeatureMap]) -> Tensor:  # [N, C] float32
    """Sample cells of frames that are spread evenly over all; deterministic."""
    chosen = evenly_spread(len(frames), _MAX_FRAMES)
    parts = []
    for index in chosen:
        rows = frames[index].data.float().flatten(1).T
        step = max(1, -(-len(rows) * len(chosen) // _MAX_CELLS))
        # Not every n-th: that would take the same columns of every row.
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(index))
        parts.append(rows[order[: max(1, len(rows) // step)].to(rows.device)])
    return torch.cat(parts)


def evenly_spread(length: int, most: int) -> list[int]:
    """Choose at most `most` of the indices of a sequence, from the first to the last."""
    count = min(length, most)
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]


def _cellwise(score: Callable[[Tensor], Tensor], features: FeatureMap) -> Tensor:
    """Apply a score of rows, [N, C] to [N, K], to all cells of a map: [K, h, w]."""
    return score(features.data.float().flatten(1).T).T.unflatten(1, features.data.shape[1:])


def _segmenter(
    score: Callable[[FeatureMap], Tensor], names: tuple[str, ...], colors: tuple[tuple[int, int, int], ...]
) -> Decoder:
    """Make a decoder that scores each cell, brings the scores to the picture, and then takes the best class."""

    def decode(features: FeatureMap, view: RenderedView) -> Segmentation:
        logits = FeatureMap(score(features), features.grid)
        return Segmentation(class_scores(logits, view.image), names, colors)

    return decode


def _directions(rows: Tensor, mean: Tensor) -> Tensor:
    return F.normalize(rows - mean.to(rows), dim=1)


def _kmeans(rows: Tensor, count: int) -> Tensor:  # [N, C] to [count, C]
    """Cluster by k-means++ with a fixed seed, then Lloyd's iterations."""
    generator = torch.Generator().manual_seed(0)
    centers = rows[torch.randint(len(rows), (1,), generator=generator).to(rows.device)]
    for _ in range(count - 1):
        distance = torch.cdist(rows, centers).square().amin(1) + 1e-12
        chosen = torch.multinomial(distance.cpu(), 1, generator=generator).to(rows.device)
        centers = torch.cat([centers, rows[chosen]])
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.cdist(rows, centers).argmin(1)
        sums = torch.zeros_like(centers).index_add_(0, nearest, rows)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return centers


def _painted(strokes: Tensor, width: int, height: int) -> tuple[tuple[tuple[int, int, int], ...], Tensor, Tensor]:
    """Return colours, class [N] and photo pixel [N, 2] of painted pixels, at most `_MAX_STROKE_PIXELS` per class."""
    v, u = strokes.any(2).nonzero(as_tuple=True)
    found, classes, counts = torch.unique(strokes[v, u], dim=0, return_inverse=True, return_counts=True)
    size = torch.tensor([strokes.shape[1], strokes.shape[0]])
    uv = ((torch.stack([u, v], 1) + 0.5) / size * torch.tensor([width, height])).long()
    chosen = (counts >= _LEAST_OF_COLOR * counts.sum()).nonzero()[:, 0]
    places = []
    for index in chosen:
        pixels = (classes == index).nonzero()[:, 0]
        places.append(uv[pixels[:: max(1, len(pixels) // _MAX_STROKE_PIXELS)]])
    numbers = [torch.full((len(place),), number) for number, place in enumerate(places)]
    uv = torch.cat(places) if places else uv[:0]
    return tuple(tuple(color.tolist()) for color in found[chosen]), torch.cat([*numbers, classes[:0]]), uv


@torch.inference_mode(False)
@torch.enable_grad()
def _logistic_regression(rows: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Fit weights [K, C] and biases [K]; all classes have equal weight, however much of them was painted."""
    rows, classes = rows.clone(), classes.clone()
    share = torch.bincount(classes, minlength=count).float()
    weight = torch.zeros(count, rows.shape[1], device=rows.device, requires_grad=True)
    bias = torch.zeros(count, device=rows.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(rows @ weight.T + bias, classes, weight=share.sum() / (count * share))
        loss = loss + _RIDGE * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()
