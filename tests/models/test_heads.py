"""Tasks by the features alone: one colour basis for all frames, classes from strokes and clusters."""

from __future__ import annotations

import pytest
import torch

from lift3d_cli import FeatureGrid, FeatureMap, ModelSpec, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.heads import FeatureModel, principal_colors, sample_cells, segment_clusters

STRIDE, WIDTH, HEIGHT = 4, 48, 32
KINDS = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), dim=1)


class Plain(FeatureModel):
    spec = ModelSpec(name="plain", channels=16, stride=STRIDE, tasks=("features", "segment"))


def frame(kinds: torch.Tensor, noise: float = 0.05, seed: int = 0) -> FeatureMap:
    """Features of cells of three kinds [h, w], with noise and another gain for each cell."""
    generator = torch.Generator().manual_seed(seed)
    data = KINDS[kinds] * (1 + 0.3 * torch.rand(*kinds.shape, 1, generator=generator))
    data = data + noise * torch.randn(data.shape, generator=generator)
    grid = FeatureGrid.from_stride(kinds.shape[1] * STRIDE, kinds.shape[0] * STRIDE, STRIDE)
    return FeatureMap(data.permute(2, 0, 1).contiguous(), grid)


def thirds(seed: int = 0) -> FeatureMap:
    """Kinds 0, 1, 2 from left to right."""
    columns = torch.arange(WIDTH // STRIDE) * 3 // (WIDTH // STRIDE)
    return frame(columns.expand(HEIGHT // STRIDE, -1), seed=seed)


VIEW = RenderedView(torch.zeros(3, HEIGHT, WIDTH), torch.ones(HEIGHT, WIDTH))


def context(task: str, frames=None, photo=None, **options) -> DecodeContext:
    features = photo or thirds()
    return DecodeContext(
        task, DecodeOptions(**options), frames or [thirds()], lambda name: (features, torch.zeros(3, HEIGHT, WIDTH))
    )


def test_one_feature_has_one_colour_in_all_frames_whatever_else_they_show():
    left = frame(torch.zeros(8, 12, dtype=torch.long), noise=0)
    decode = principal_colors([thirds(), left])
    colors = decode(thirds(), VIEW)[:, 16, 6]
    alone = decode(left, VIEW)[:, 16, 6]
    torch.testing.assert_close(colors, alone, atol=0.15, rtol=0)
    # With a basis of its own, a frame of one kind would be all noise.
    assert (decode(thirds(), VIEW)[:, 16, 6] - decode(thirds(), VIEW)[:, 16, 42]).abs().max() > 0.4


def test_features_of_one_and_two_channels_have_colours_too():
    for channels in (1, 2):
        features = thirds()
        features = FeatureMap(features.data[:channels], features.grid)
        colors = principal_colors([features])(features, VIEW)
        assert colors.shape == (3, HEIGHT, WIDTH)
        assert colors.std() > 0.05


def test_clusters_are_the_kinds_and_the_same_in_all_frames():
    other = frame(torch.arange(3).repeat_interleave(4).flip(0).expand(8, -1), seed=5)
    decode = segment_clusters([thirds(), other], 3)
    one, two = (decode(features, VIEW).scores.argmax(0)[16] for features in (thirds(), other))
    assert [len(set(one[a : a + 12].tolist())) for a in (2, 18, 34)] == [1, 1, 1]
    assert len({one[8].item(), one[24].item(), one[40].item()}) == 3
    assert (one[8], one[24], one[40]) == (two[40], two[24], two[8])


def test_clusters_are_the_same_again():
    first, second = (segment_clusters([thirds()], 3)(thirds(), VIEW).scores for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first.sum(0), torch.ones(HEIGHT, WIDTH))


@pytest.mark.parametrize("scale", [1, 2])
def test_strokes_on_a_photo_say_what_is_what_in_other_frames(scale):
    strokes = torch.zeros(HEIGHT * scale, WIDTH * scale, 3, dtype=torch.uint8)
    strokes[10 * scale : 14 * scale, 4 * scale : 8 * scale] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    strokes[10 * scale : 14 * scale, 20 * scale : 44 * scale] = torch.tensor([0, 0, 255], dtype=torch.uint8)
    decode = Plain().decoder(context("segment", strokes=strokes, strokes_view="a"))
    result = decode(frame(torch.arange(3).repeat_interleave(4).flip(0).expand(8, -1), seed=7), VIEW)
    red = result.colors.index((255, 0, 0))
    labels = result.scores.argmax(0)[16]
    assert (labels[2:30] != red).all()  # kinds 2 and 1
    assert (labels[35:46] == red).all()  # kind 0
    assert result.names[red] == "#ff0000"


def placed(features: FeatureMap, x: float = 0.0, known: bool = True) -> FeatureMap:
    """Put cells onto a plane, a unit apart; `x` moves them to the side."""
    height, width = features.data.shape[1:]
    v, u = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    points = torch.stack([u + x, v, torch.full_like(u, 0.0 if known else torch.nan)])
    return FeatureMap(features.data, features.grid, points)


def test_place_says_what_a_cell_is_where_its_features_do_not():
    strokes = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    strokes[4:28, 2:14] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    strokes[4:28, 34:46] = torch.tensor([0, 0, 255], dtype=torch.uint8)
    doubtful = thirds()
    doubtful.data[:, :, :4] = 0.45 * KINDS[0][:, None, None] + 0.55 * KINDS[2][:, None, None]  # of red, rather blue
    frames = [placed(thirds(seed=i)) for i in range(4)]
    decode = Plain().decoder(context("segment", frames, strokes=strokes, strokes_view="a"))

    def is_red(features: FeatureMap) -> torch.Tensor:
        return decode(features, VIEW).scores[1, 16, 2:12] > 0.5

    assert not is_red(doubtful).any()  # it has no place
    assert is_red(placed(doubtful)).all()
    assert not is_red(placed(doubtful, x=8)).any()  # where the others are blue
    assert not is_red(placed(doubtful, known=False)).any()


def test_strokes_of_one_colour_are_refused_with_what_to_do():
    strokes = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    strokes[2:5, 2:5, 1] = 200
    with pytest.raises(ModelError, match=r"1 colour painted.*one more"):
        Plain().decoder(context("segment", strokes=strokes, strokes_view="a"))


def test_soft_edges_of_strokes_are_no_classes():
    strokes = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    strokes[2:30, 2:12, 0], strokes[2:30, 20:30, 2] = 255, 255
    strokes[1, 2, 0], strokes[1, 20:22, 2] = 90, 130
    result = Plain().decoder(context("segment", strokes=strokes, strokes_view="a"))(thirds(), VIEW)
    assert result.colors == ((0, 0, 255), (255, 0, 0))


def test_strokes_of_another_shape_than_the_photo_are_refused():
    strokes = torch.zeros(HEIGHT, HEIGHT, 3, dtype=torch.uint8)
    with pytest.raises(ModelError, match=f"picture is {HEIGHT}x{HEIGHT}, the photo {WIDTH}x{HEIGHT}"):
        Plain().decoder(context("segment", strokes=strokes, strokes_view="a"))


def test_segment_without_a_wish_says_which_there_are():
    with pytest.raises(ModelError, match=r"--strokes .*--clusters"):
        Plain().decoder(context("segment"))
    with pytest.raises(ModelError, match="knows no words"):
        Plain().decoder(context("segment", text=("dog",)))
    with pytest.raises(ModelError, match="--clusters 1:"):
        Plain().decoder(context("segment", clusters=1))


def test_cells_are_taken_from_frames_spread_over_all():
    frames = [frame(torch.full((8, 12), i % 3), noise=0) for i in range(90)]
    rows = sample_cells(frames)
    assert len(rows) <= 20_000
    for kind in KINDS:
        assert ((torch.nn.functional.normalize(rows, dim=1) @ kind) > 0.999).any()
