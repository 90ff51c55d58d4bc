"""The photos' own surfaces: found in a distribution, brought to a size, and compared with points."""

from __future__ import annotations

import numpy as np
import plane_world
import pytest
import torch

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import pixel_centers
from lift3d_cli.lifting.proposal.learned import LearnedProposal
from lift3d_cli.lifting.proposal.network import NUM_CUES, NUM_PLAIN_CUES, DepthRegularizer
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.proposal.sweep import Frustum, plane_sweep
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.lifting.surfaces import known_surface, surface_at_size, surface_evidence, surface_of

NEAR, FAR = 2.0, 8.0


def distribution(shares: dict[int, float], num_planes: int = 13) -> DepthDistribution:
    probability = torch.zeros(num_planes, 2, 3)
    for plane, share in shares.items():
        probability[plane] = share
    return DepthDistribution(probability, NEAR, FAR, (0.5, 0.5))


def inverse_depth(plane: float, num_planes: int = 13) -> float:
    return 1 / NEAR + plane / (num_planes - 1) * (1 / FAR - 1 / NEAR)


def test_the_surface_lies_on_the_likeliest_plane():
    inverse, exactness, sure = surface_of(distribution({4: 0.9, 10: 0.1}))
    assert torch.allclose(inverse, torch.tensor(inverse_depth(4)))
    assert torch.allclose(exactness, torch.tensor((1 / NEAR - 1 / FAR) / 12))
    assert torch.allclose(sure, torch.tensor(0.9))


def test_the_surface_lies_between_planes_that_share_it():
    inverse, _, sure = surface_of(distribution({4: 0.5, 5: 0.25, 11: 0.25}))
    assert torch.allclose(inverse, torch.tensor(inverse_depth(4 + 1 / 3)))
    assert torch.allclose(sure, torch.tensor(0.75))


def test_of_two_surfaces_it_is_one_and_not_their_mean():
    inverse, _, sure = surface_of(distribution({2: 0.45, 10: 0.55}))
    assert torch.allclose(inverse, torch.tensor(inverse_depth(10)))
    assert sure.max() < 0.6


def test_surfaces_of_several_targets_have_their_own_ranges():
    one = distribution({4: 1.0})
    both = DepthDistribution(
        one.probability.expand(2, -1, -1, -1), torch.tensor([2.0, 1.0]), torch.tensor([8.0, 4.0]), one.scale
    )
    inverse, exactness, _ = surface_of(both).unbind(1)
    assert torch.allclose(inverse[1], 2 * inverse[0])
    assert torch.allclose(exactness[1], 2 * exactness[0])


def test_a_known_surface_is_sure_where_there_is_depth():
    inverse, _, sure = known_surface(torch.tensor([[4.0, 0.0]]))
    assert inverse.tolist() == [[0.25, 0.0]]
    assert sure.tolist() == [[1.0, 0.0]]


def test_bringing_a_surface_to_a_size_mixes_no_cells():
    surface = torch.rand(3, 7, 9)
    at_size = surface_at_size(surface, 41, 30)
    assert at_size.shape == (3, 15, 21)
    assert set(at_size[0].unique().tolist()) <= set(surface[0].unique().tolist())
    assert torch.equal(at_size[:, 0, 0], surface[:, 0, 0])
    assert torch.equal(at_size[:, -1, -1], surface[:, -1, -1])


@pytest.fixture(scope="module")
def world():
    """Photos of a wall with a card before it, with exact surfaces, and the target's depth."""
    cameras = plane_world.rig(6)
    depths = [plane_world.photograph(camera, plane_world.WALL_AND_CARD)[1] for camera in cameras]
    surfaces = [surface_at_size(known_surface(torch.from_numpy(z).float()), z.shape[1], z.shape[0]) for z in depths]
    sources = plane_world.source_views(cameras[1:], plane_world.WALL_AND_CARD)
    with_surfaces = SourceViews(sources.cameras, sources.images, sources.valid, surfaces=torch.stack(surfaces[1:]))
    return cameras[0], with_surfaces, torch.from_numpy(depths[0]).float()


def evidence_at(world, factor: float):
    target, sources, depth = world
    lines = EpipolarLines.between(target, sources.cameras)
    t = factor * depth.reshape(-1, 1)
    uv, z = lines.project(pixel_centers(target.width, target.height), t)
    inside = ((uv > 2) & (uv < torch.tensor([target.width - 2.0, target.height - 2.0]))).all(-1)
    return surface_evidence(sources.surfaces, uv, z, t, 0.004), inside


def test_points_of_the_target_are_on_the_surfaces_of_most_photos(world):
    evidence, inside = evidence_at(world, 1.0)
    assert evidence.on[inside].median() > 0.95
    assert (evidence.on[inside] > 0.5).float().mean() > 0.85  # not where the card hides them


def test_points_before_the_surface_lie_in_empty_space(world):
    evidence, inside = evidence_at(world, 0.8)
    assert evidence.before[inside].median() > 0.95
    assert evidence.on[inside].median() < 0.05


def test_points_behind_the_surface_are_hidden(world):
    evidence, inside = evidence_at(world, 1.25)
    assert evidence.behind[inside].median() > 0.95
    assert evidence.before[inside].median() < 0.05
    assert evidence.offset[inside].median() < -2


def test_an_unknown_surface_says_nothing(world):
    target, sources, depth = world
    unknown = SourceViews(sources.cameras, sources.images, sources.valid, surfaces=0 * sources.surfaces)
    evidence, _ = evidence_at((target, unknown, depth), 1.0)
    assert all(not getattr(evidence, name).any() for name in ("on", "near", "before", "behind", "sure", "offset"))


def cues(world, surfaces: torch.Tensor | None) -> torch.Tensor:
    target, sources, _ = world
    views = SourceViews(sources.cameras, sources.images, sources.valid, surfaces=surfaces)
    frustum = Frustum.before(target, (2.0, 8.0), 32, 2)
    lines = EpipolarLines.between(target, sources.cameras)
    num_cues = NUM_PLAIN_CUES if surfaces is None else NUM_CUES
    volume = torch.empty(num_cues - 1, frustum.num_planes, frustum.height, frustum.width)
    plane_sweep(views, lines, frustum, 2**28, LearnedProposal(None, "").cues, volume)
    return torch.cat([volume[:1], volume])  # unsmoothed


def test_unknown_surfaces_are_looked_at_like_none(world):
    unknown, none = cues(world, 0 * world[1].surfaces), cues(world, None)
    assert torch.allclose(unknown[:NUM_PLAIN_CUES], none, atol=1e-5)
    torch.manual_seed(0)
    regularizer = DepthRegularizer()
    torch.nn.init.normal_(regularizer.head.weight, std=0.1)
    of_unknown, of_none = (torch.cat([x.flatten() for x in regularizer(volume)]) for volume in (unknown, none))
    assert of_none.std() > 0.01
    assert torch.allclose(of_unknown, of_none, atol=1e-4)


def test_most_photos_have_their_surface_where_the_target_has_its_own(world):
    depth = world[2]
    on = cues(world, world[1].surfaces)[NUM_PLAIN_CUES]  # [D, h, w], the first cue of the surfaces
    found = 1 / np.linspace(1 / 2.0, 1 / 8.0, 32)[on.argmax(0)]
    truth = depth[::2, ::2].numpy()
    apart = np.abs(1 / found - 1 / truth) / (1 / 2.0 - 1 / 8.0)
    assert (apart[4:-4, 4:-4] < 1 / 31).mean() > 0.9
