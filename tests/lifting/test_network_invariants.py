"""Whatever the network's weights are, the learned renderer keeps what must hold, and all of it can learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plane_world import look_at, rig, source_views
from rendering import RANGE

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import FeatureGrid, pixel_centers, sample_volume
from lift3d_cli.lifting.blending.learned import LearnedBlending
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.learned import LearnedProposal
from lift3d_cli.lifting.proposal.network import NUM_LATENTS
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SourceViews

TARGET = look_at((0.3, 0.1, -4.0))
TRAINING_FREE = Renderer(PlaneSweepProposal(16), num_samples=4)


def learned(network: Lift3DNetwork) -> Renderer:
    network = network.eval().requires_grad_(False)
    blending = LearnedBlending(network.pyramid, network.blending, "test")
    return Renderer(LearnedProposal(network.regularizer, "test", 16), blending, num_samples=4)


@pytest.fixture(scope="module")
def arbitrary() -> Renderer:
    """With a network whose last layers say much, though nothing sensible."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Lift3DNetwork()
        for name, parameter in network.named_parameters():
            if not parameter.any() and name.endswith("weight"):
                torch.nn.init.normal_(parameter, std=2.0)
    return learned(network)


def features(count: int) -> dict[str, SourceFeatures]:
    grid = FeatureGrid.from_stride(96, 72, 8)
    maps = [torch.randn(18, 9, 12, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    return {"m": SourceFeatures(maps, [grid] * count, grid)}


def test_arbitrary_network_renders_something_else(sources, arbitrary):
    # Otherwise the tests below would say nothing about it.
    got, want = (renderer.render(TARGET, sources, RANGE) for renderer in (arbitrary, TRAINING_FREE))
    assert (got.depth - want.depth).abs().mean() > 0.03
    assert (got.image - want.image).abs().mean() > 0.003


def test_fully_masked_photo_changes_nothing(sources, arbitrary):
    images, valid = sources.images.clone(), sources.valid.clone()
    images[2], valid[2] = torch.rand(3, 72, 96), 0
    keep = [0, 1, 3, 4, 5]
    without = SourceViews([sources.cameras[i] for i in keep], sources.images[keep], sources.valid[keep])
    got = arbitrary.render(TARGET, SourceViews(sources.cameras, images, valid), RANGE)
    want = arbitrary.render(TARGET, without, RANGE)
    for name in ("image", "depth", "coverage"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), atol=5e-3, rtol=5e-3)


def test_constant_features_stay_constant(sources, arbitrary):
    constant = torch.arange(18.0).view(-1, 1, 1).expand(-1, 9, 12)
    grid = FeatureGrid.from_stride(96, 72, 8)
    target = look_at((1.5, 0.4, -4.0), (2.0, 0, 0))  # part of it is seen by nobody
    frame = arbitrary.render(target, sources, RANGE, {"m": SourceFeatures([constant] * 6, [grid] * 6, grid)})
    assert frame.coverage.min() == 0
    torch.testing.assert_close(frame.features["m"], constant, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("depth_range", [RANGE, (RANGE[0] / 3, RANGE[1] * 3), (3.999, 4.001), (1e-3, 1e4)])
@pytest.mark.parametrize(
    "target",
    [
        look_at((6.0, 0.0, -4.0), (0.0, 0.0, 0.0)),
        look_at((0.1, 0.0, 4.0)),
        look_at((0.1, 0.0, -4.0), (0.1, 0.0, -9.0)),
        look_at((0.2, 0.1, -4.0), width=37, height=1),
        look_at((0.2, 0.1, -4.0), width=1, height=1),
    ],
    ids=["far to the side", "behind the wall", "looking away", "odd size", "one pixel"],
)
def test_every_target_and_depth_range_gives_finite_pictures(sources, arbitrary, target, depth_range):
    frame = arbitrary.render(target, sources, depth_range, features(6))
    for name in ("image", "depth", "coverage"):
        assert torch.isfinite(getattr(frame, name)).all()
    assert torch.isfinite(frame.features["m"]).all()
    assert frame.image.shape == (3, target.height, target.width)
    assert frame.depth.min() >= depth_range[0] * 0.999
    assert frame.depth.max() <= depth_range[1] * 1.001
    assert frame.coverage.min() >= 0
    assert frame.coverage.max() <= 1 + 1e-5


def test_large_target_has_larger_voxels(sources, arbitrary):
    target = look_at((0.0, 0.0, -4.0), width=730, height=30, focal=680.0)
    distribution = arbitrary.proposal(target, sources, RANGE, 2**30)
    step = round(1 / distribution.scale[0])
    assert step > 2
    assert distribution.probability.shape == distribution.latent.shape[1:] == (16, -(-30 // step), -(-730 // step))


def test_every_parameter_learns():
    network = Lift3DNetwork()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    sources = source_views(rig(3))
    sources = replace(sources, features=network.pyramid(sources.images))
    proposal = LearnedProposal(network.regularizer, "test", 8)
    blending = LearnedBlending(network.pyramid, network.blending, "test")
    target = look_at((0.0, 0.0, -4.0), width=24, height=16, focal=22.0)
    distribution = proposal(target, sources, RANGE, 2**30)
    rays = pixel_centers(24, 16)
    lines = EpipolarLines.between(target, sources.cameras)
    sources = blending.with_surface(sources, lines, distribution)
    weights = blending(sources, lines, rays, torch.tensor([3.5, 4.0, 4.5]).expand(len(rays), -1), distribution)
    spread = torch.randn(weights.omega.shape, generator=generator)
    ((weights.omega * spread).sum() + (distribution.probability[:4] ** 2).sum()).backward()
    for name, parameter in network.named_parameters():
        if name.startswith(("corrector.", "propagation.")):
            continue  # see test_correction.py and test_propagation.py
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # The views' softmax cancels what is added to all of them.
        assert parameter.grad.any() or name == "blending.view_head.2.bias", name


@pytest.mark.parametrize("planes", [2, 5, 64])
def test_sample_on_a_plane_is_told_what_stage_i_says_of_that_plane(sources, planes):
    told = []

    class Listening(torch.nn.Module):
        def forward(self, views, seen, weight, prior, samples):
            told.append(samples)
            return torch.zeros(seen.shape), torch.zeros(seen.shape[1:])

    pyramid = Lift3DNetwork().pyramid
    latent = torch.arange(float(planes)).view(1, -1, 1, 1).expand(NUM_LATENTS, -1, 36, 48)  # each its number
    distribution = DepthDistribution(torch.full((planes, 36, 48), 1 / planes), *RANGE, (0.5, 0.5), latent)
    depths = 1 / torch.linspace(1 / RANGE[0], 1 / RANGE[1], planes)
    rays = pixel_centers(96, 72)[::500]
    lines = EpipolarLines.between(TARGET, sources.cameras)
    sources = replace(sources, features=pyramid(sources.images))
    blending = LearnedBlending(pyramid, Listening(), "test")
    sources = blending.with_surface(sources, lines, distribution)
    blending(sources, lines, rays, depths.expand(len(rays), -1), distribution)
    want = torch.arange(float(planes)).expand(len(rays), -1)
    torch.testing.assert_close(told[0][..., 0], want, atol=1e-3, rtol=0)


def test_settings_tell_renderers_apart():
    network = Lift3DNetwork()
    one, other = (LearnedProposal(network.regularizer, identity, 16).settings() for identity in ("ab", "cd"))
    assert one != other
    assert learned(network).settings() != TRAINING_FREE.settings()


def test_volume_that_holds_its_coordinates_is_sampled_to_them():
    depth, height, width = 5, 4, 6
    volume = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in (depth, height, width)), indexing="ij"))
    uv = torch.tensor([[1.0, 1.0], [6.0, 4.5], [11.0, 7.0]])  # voxels of 2 pixels
    position = torch.tensor([[-0.8, 0.0], [0.4, 0.8], [-0.4, 0.3]])  # the planes' bins are 0.4 wide
    out = sample_volume(volume, uv, position, (0.5, 0.5))
    torch.testing.assert_close(out[..., 0], (position + 1) / 2 * depth - 0.5, atol=1e-4, rtol=0)
    torch.testing.assert_close(out[..., 1], (uv[:, 1:] / 2 - 0.5).expand(-1, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(out[..., 2], (uv[:, :1] / 2 - 0.5).expand(-1, 2), atol=1e-4, rtol=0)
