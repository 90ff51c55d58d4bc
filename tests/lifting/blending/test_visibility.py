"""What the target's surface hides from a source view, by a depth buffer."""

from __future__ import annotations

import torch
from plane_world import look_at, source_views

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import inside, pixel_centers
from lift3d_cli.lifting.blending.visibility import depth_buffers, visibility_inputs
from lift3d_cli.lifting.proposal.protocol import DepthDistribution

STEP, PLANES, NEAR, FAR = 2, 33, 2.0, 8.0
TARGET = look_at((0.0, 0.0, -4.0))
WIDTH, HEIGHT = TARGET.width // STEP, TARGET.height // STEP
# A board at z-depth 3, with the middle third of the picture, before a wall at z-depth 6.
IS_BOARD = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
IS_BOARD[HEIGHT // 3 : 2 * HEIGHT // 3, WIDTH // 3 : 2 * WIDTH // 3] = True
DEPTH = torch.where(IS_BOARD, 3.0, 6.0)


def known(depth: torch.Tensor) -> DepthDistribution:
    """All probability on the plane nearest to a depth map [h, w]."""
    position = (1 / depth - 1 / NEAR) / (1 / FAR - 1 / NEAR) * (PLANES - 1)
    probability = torch.nn.functional.one_hot(position.round().long(), PLANES).permute(2, 0, 1).float()
    return DepthDistribution(probability, NEAR, FAR, (1 / STEP, 1 / STEP))


def seen_share(camera, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the surface's points in some cells [N] of the target: how visible they are, and what truly is [N]."""
    sources, distribution = source_views([camera]), known(DEPTH)
    lines = EpipolarLines.between(TARGET, [camera])
    rays = pixel_centers(WIDTH, HEIGHT)[points] * STEP
    t = DEPTH.flatten()[points, None]
    uv, z = lines.project(rays, t)
    buffers = depth_buffers(sources, lines, distribution)
    share = visibility_inputs(buffers, uv, z, distribution)[0, 0, :, 0]
    # The board's plane is crossed on the way from the source to a point of the wall: where, in the target's picture?
    center = torch.from_numpy(TARGET.w2c[:3, :3] @ camera.position + TARGET.w2c[:3, 3]).float()
    ray = torch.cat([rays, torch.ones(len(rays), 1)], 1) @ torch.from_numpy(TARGET.K).float().inverse().T
    point = ray * t
    crossing = center + (point - center) * ((3.0 - center[2]) / (point[:, 2] - center[2]))[:, None]
    pixel = (crossing @ torch.from_numpy(TARGET.K).float().T)[:, :2] / 3.0 / STEP
    at = pixel.long()
    hidden = IS_BOARD[at[:, 1].clamp(0, HEIGHT - 1), at[:, 0].clamp(0, WIDTH - 1)] & (t[:, 0] > 3)
    hidden &= inside(pixel, WIDTH, HEIGHT)
    return share, ~hidden


def test_the_board_hides_the_wall_behind_it_and_nothing_else():

    camera = look_at((1.5, 0.2, -4.0), (1.0, 0.2, 0.0))
    share, truth = seen_share(camera, torch.arange(HEIGHT * WIDTH))
    # Cells at the board's border are of both.
    hidden = (~truth).reshape(1, 1, HEIGHT, WIDTH).float()
    near_border = torch.nn.functional.max_pool2d(hidden, 5, 1, 2) != -torch.nn.functional.max_pool2d(-hidden, 5, 1, 2)
    clear = ~near_border.flatten()
    assert (~truth & clear).sum() > 20
    assert (share[~truth & clear] < 0.2).all()
    assert (share[truth & clear] > 0.8).float().mean() > 0.98


def test_seen_from_the_target_itself_nothing_is_hidden():
    share, _ = seen_share(TARGET, torch.arange(HEIGHT * WIDTH))
    assert (share > 0.8).float().mean() > 0.98


def test_several_targets_are_as_each_alone():
    cameras = [look_at((0.8, 0.2, -4.0)), look_at((-0.5, 0.0, -4.0))]
    sources, distribution = source_views(cameras), known(DEPTH)
    lines = EpipolarLines.between(TARGET, cameras)
    rays = pixel_centers(WIDTH, HEIGHT)[::7] * STEP
    t = torch.tensor([3.0, 5.0]).expand(len(rays), -1)

    def inputs(sources, lines, distribution, rays, t):
        uv, z = lines.project(rays, t)
        return visibility_inputs(depth_buffers(sources, lines, distribution), uv, z, distribution)

    alone = inputs(sources, lines, distribution, rays, t)
    both = inputs(
        type(sources)((), sources.images.expand(2, -1, -1, -1, -1), sources.valid.expand(2, -1, -1, -1, -1)),
        EpipolarLines.stack([lines, lines]),
        DepthDistribution(
            distribution.probability.expand(2, -1, -1, -1),
            torch.full((2,), NEAR),
            torch.full((2,), FAR),
            (1 / STEP,) * 2,
        ),
        rays.expand(2, -1, -1),
        t.expand(2, -1, -1),
    )
    for one in both:
        torch.testing.assert_close(one, alone)


def test_what_lies_behind_a_source_camera_is_finite():
    camera = look_at((0.0, 0.0, 1.5), (0.0, 0.0, 9.0))  # behind the board's plane, looking on
    share, _ = seen_share(camera, torch.arange(HEIGHT * WIDTH))
    assert torch.isfinite(share).all()
