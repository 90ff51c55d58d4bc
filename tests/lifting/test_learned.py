"""The learned renderer: what holds whatever the weights are, and what the shipped weights are worth."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from plane_world import as_tensor, photograph, rig, source_views
from rendering import RANGE, all_finite, psnr

from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import pixel_centers, sample_volume
from lift3d_cli.lifting.blending.learned import LearnedBlending
from lift3d_cli.lifting.blending.network import _Elu
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.learned import LearnedProposal, _smallest
from lift3d_cli.lifting.proposal.sampling import sample_depths
from lift3d_cli.lifting.proposal.sweep import disparity
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.pipeline.renderers import make_renderer


def learned(network: Lift3DNetwork, num_planes: int = 16) -> Renderer:
    blending = LearnedBlending(network.pyramid, network.blending, "test")
    return Renderer(LearnedProposal(network.regularizer, "test", num_planes), blending)


@pytest.fixture(scope="module")
def random_network() -> Lift3DNetwork:
    """Weights with something to say everywhere: random, also in the layers that begin at zero."""
    torch.manual_seed(0)
    network = Lift3DNetwork()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


def test_the_network_has_the_number_of_parameters_that_the_page_in_its_docstring_says():
    count = sum(parameter.numel() for parameter in Lift3DNetwork().parameters())
    page = re.search(r"docs/[\w-]+\.md", Lift3DNetwork.__doc__)[0]
    assert f"{count:,}" in (Path(__file__).parents[2] / page).read_text(encoding="utf-8")


def test_untrained_it_renders_what_the_training_free_renderer_does():
    cameras, target = rig(6), rig(8)[3]
    sources = source_views(cameras)
    want = Renderer(PlaneSweepProposal(num_planes=16)).render(target, sources, RANGE)
    got = learned(Lift3DNetwork()).render(target, sources, RANGE)
    torch.testing.assert_close(got.depth, want.depth, rtol=1e-4, atol=1e-4)
    seen = want.coverage == 1  # elsewhere the unseen samples' share is handed on differently
    torch.testing.assert_close(got.image[:, seen], want.image[:, seen], rtol=0, atol=2e-3)


def test_the_order_of_the_source_photos_does_not_matter(random_network):
    cameras = rig(6)
    a = learned(random_network).render(cameras[2], source_views([*cameras[:2], *cameras[3:]]), RANGE)
    b = learned(random_network).render(cameras[2], source_views([*cameras[:2], *cameras[3:]][::-1]), RANGE)
    torch.testing.assert_close(a.image, b.image, rtol=0, atol=1e-3)


@pytest.mark.parametrize("num_views", [1, 2, 16])
@pytest.mark.parametrize("widening", [1, 3])
def test_any_number_of_views_and_a_range_too_wide_give_finite_pictures(random_network, num_views, widening):
    near, far = RANGE
    frame = learned(random_network).render(rig(8)[3], source_views(rig(num_views)), (near / widening, far * widening))
    assert all_finite(frame)


def test_weights_sum_to_one_where_a_view_sees_the_ray_and_are_zero_elsewhere(random_network):
    cameras = rig(5)
    target, sources = cameras[0], source_views(cameras[1:])
    sources.valid[:, :, :, :60] = 0
    proposal = LearnedProposal(random_network.regularizer, "test", 16)
    distribution = proposal(target, sources, RANGE, 2**30)
    lines, rays = EpipolarLines.between(target, sources.cameras), pixel_centers(target.width, target.height)
    t = sample_depths(distribution, rays, 8)
    with torch.no_grad():
        sources = replace(sources, features=random_network.pyramid(sources.images))
        blending = LearnedBlending(random_network.pyramid, random_network.blending, "test")
        weights = blending(blending.with_surface(sources, lines, distribution), lines, rays, t, distribution)
    total = weights.omega.sum((0, 2))
    assert (weights.omega >= 0).all()
    assert (weights.coverage == 0).any()
    assert (weights.coverage > 0).any()
    torch.testing.assert_close(total, (weights.coverage > 0).float(), rtol=0, atol=1e-5)


def test_chunks_of_rays_do_not_show(random_network):
    target, sources = rig(8)[3], source_views(rig(4))
    whole = learned(random_network).render(target, sources, RANGE)
    renderer = learned(random_network)
    pieces = Renderer(renderer.proposal, renderer.blending, memory_bytes=2**20).render(target, sources, RANGE)
    torch.testing.assert_close(whole.image, pieces.image, rtol=0, atol=1e-4)


def test_a_frame_is_the_same_on_two_threads(random_network):
    target, sources = rig(8)[3], source_views(rig(4))
    alone = learned(random_network).render(target, sources, RANGE)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        got = learned(random_network).render(target, sources, RANGE)
    finally:
        torch.set_num_threads(before)
    for name in ("image", "depth", "coverage"):
        torch.testing.assert_close(getattr(got, name), getattr(alone, name), rtol=0, atol=1e-5)


def test_stage_i_looks_at_the_best_views_that_show_anything(random_network):
    target, sources = rig(9)[4], source_views(rig(8))
    proposal = LearnedProposal(random_network.regularizer, "test", 16, most_views=6)

    def found(views: SourceViews) -> torch.Tensor:
        with torch.no_grad():
            return proposal(target, views, RANGE, 2**30).probability

    before = found(sources)
    others = replace(sources, images=sources.images.clone(), valid=sources.valid.clone())
    others.images[6:] = others.images[6:].flip(-1)
    assert torch.equal(found(others), before)
    others.valid[2] = 0  # the seventh is looked at in its place
    assert not torch.allclose(found(others), found(replace(sources, valid=others.valid)), atol=1e-3)


@pytest.mark.parametrize("num_views", [1, 2, 4, 9])
def test_the_smallest_values_are_those_of_a_sort(num_views):
    values = torch.randn(num_views, 50).round(decimals=1)  # some are equal
    want = values.sort(0).values[:4]
    torch.testing.assert_close(torch.stack(_smallest(values, 4)), want, rtol=0, atol=0)


def at(x: float, width: int = 96, focal: float = 80.0) -> Camera:
    """A camera that looks along +Z from (x, 0, 0)."""
    w2c = np.eye(4)
    w2c[0, 3] = -x
    return Camera(np.array([[focal, 0, width / 2], [0, focal, 32], [0, 0, 1]]), w2c, width, 64)


def test_disparity_is_how_far_a_point_moves_in_the_photo_in_the_middle():
    # Stereo: focal * baseline * (1 / near - 1 / far).
    assert disparity(at(0), [at(0.1)], (1.0, 4.0)) == pytest.approx(80 * 0.1 * 0.75, rel=1e-3)
    assert disparity(at(0), [at(0.1), at(-0.2), at(0.5)], (1.0, 4.0)) == pytest.approx(80 * 0.2 * 0.75, rel=1e-3)
    # A photo that shows none of it says nothing; one that shows a part of the way speaks for all of it.
    assert disparity(at(0), [at(0.1), at(90.0)], (1.0, 4.0)) == pytest.approx(80 * 0.1 * 0.75, rel=1e-3)
    assert disparity(at(0), [at(1.0)], (1.0, 4.0)) == pytest.approx(80 * 1.0 * 0.75, rel=1e-3)
    assert disparity(at(0), [at(90.0)], (1.0, 4.0)) == 0


@pytest.mark.parametrize(("baseline", "planes"), [(0.0, 32), (1.5, 48), (3.0, 96), (6.0, 128)])
def test_as_many_planes_as_the_disparity_needs(baseline, planes):
    # Voxels of 2 x 2 pixels: a baseline of 1 is a disparity of 80 * 0.75 / 2 = 30 voxels, and 30 planes.
    wide, other = at(0, 300), at(baseline, 300)
    proposal = LearnedProposal(Lift3DNetwork().regularizer, "test")
    assert proposal.planes(wide, [other], (1.0, 4.0)) == planes
    assert replace(proposal, num_planes=16).planes(wide, [other], (1.0, 4.0)) == 16


def test_elu_is_torchs_own():
    x = torch.cat([torch.linspace(-100, 100, 2001), torch.linspace(-0.01, 0.01, 101)])
    with torch.no_grad():
        torch.testing.assert_close(_Elu()(x.clone()), torch.nn.functional.elu(x), rtol=0, atol=3e-7)
    assert _Elu()(x.clone().requires_grad_().mul(1)).requires_grad


def test_volume_is_sampled_at_the_centre_of_its_voxels():
    volume = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(1, 2, 3, 4)
    # Two planes: their bins' middles are at -0.5 and 0.5. A voxel of 2 pixels has its middle at an odd pixel edge.
    out = sample_volume(volume, torch.tensor([[3.0, 5.0]]), torch.tensor([[-0.5, 0.5, 0.0]]), (0.5, 0.5))
    torch.testing.assert_close(out[0, :, 0], torch.tensor([9.0, 21.0, 15.0]))


def test_shipped_weights_render_a_held_out_photo_better_than_no_network():
    cameras = rig(8)
    truth = as_tensor(photograph(cameras[3])[0])
    sources = source_views(cameras[:3] + cameras[4:])
    config = RenderConfig(planes=32)
    full, training_free = (
        psnr(make_renderer(config, variant=variant).render(cameras[3], sources, RANGE).image, truth)
        for variant in ("full", "training-free")
    )
    assert full > training_free


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path):
    file = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"layer": torch.zeros(3)}, file)
    with pytest.raises(ModelError, match="are not those of the Lift3D network"):
        make_renderer(RenderConfig(weights=str(file)))
    with pytest.raises(ModelError, match="cannot be read"):
        make_renderer(RenderConfig(weights=str(tmp_path / "absent.safetensors")))
