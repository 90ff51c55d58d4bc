"""Propagation of surfaces: planes wander from cell to cell exactly, and an untrained one moves nothing."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.propagation import NUM_MATCHES, OFFSETS, SurfaceClues, SurfacePropagation

HEIGHT, WIDTH, PLANES = 45, 61, 33
STEP = 0.9 / (PLANES - 1)


def clues_of(inverse: torch.Tensor, seed: int = 0, voxels: tuple[int, int] = (30, 41)) -> SurfaceClues:
    random = torch.Generator().manual_seed(seed)

    def maps(*shape: int) -> torch.Tensor:
        return torch.rand(1, *shape, generator=random)

    volumes = maps(PLANES, *voxels).softmax(1), maps(NUM_MATCHES, PLANES, *voxels)
    numbers = (torch.full((1, 1, 1, 1), x) for x in (1.0, 0.1, STEP))
    size = HEIGHT, WIDTH
    views = torch.full((1, 1, *size), 5.0)
    return SurfaceClues(inverse, maps(1, *size), maps(3, *size), 4 * maps(4, *size), views, *volumes, *numbers)


def slanted(per_x: float, per_y: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return (0.5 + STEP * (per_x * (columns - WIDTH // 2) + per_y * (rows - HEIGHT // 2)))[None, None]


def test_untrained_each_cell_keeps_its_own_plane():
    clues = clues_of(0.1 + 0.9 * torch.rand(1, 1, HEIGHT, WIDTH))
    assert torch.equal(SurfacePropagation().propagated(clues), clues.inverse)


def test_weights_without_a_propagation_keep_surfaces_as_they_were():
    network = Lift3DNetwork()
    older = {name: x for name, x in network.state_dict().items() if not name.startswith("propagation.")}
    torch.nn.init.normal_(network.propagation.affinity.bias)
    network.load(older)
    clues = clues_of(0.1 + 0.9 * torch.rand(1, 1, HEIGHT, WIDTH))
    assert torch.equal(network.propagation.propagated(clues), clues.inverse)


def test_every_neighbour_on_a_plane_offers_the_depth_that_the_cell_has():
    clues = clues_of(slanted(0.13, -0.08))
    candidates, logits = SurfacePropagation()(clues)
    assert candidates.shape == logits.shape == (1, len(OFFSETS), HEIGHT, WIDTH)
    inside = (..., slice(20, -20), slice(20, -20))
    expected = clues.inverse.expand_as(candidates)
    torch.testing.assert_close(candidates[inside], expected[inside], rtol=0, atol=1e-5)


def test_a_candidate_is_the_plane_of_the_cell_at_its_offset_and_edges_do_not_tilt_it():
    inverse = torch.full((1, 1, HEIGHT, WIDTH), 0.3)
    inverse[..., 30:] = 0.8  # something in front, from column 30 on
    candidates, _ = SurfacePropagation()(clues_of(inverse))
    for number, (y, x) in enumerate(OFFSETS):
        columns = torch.arange(14, WIDTH - 14)
        expected = torch.where(columns + x >= 30, 0.8, 0.3)
        torch.testing.assert_close(candidates[0, number, 22, 14 : WIDTH - 14], expected, msg=f"{y, x}")


def test_what_stage_1_saw_is_looked_up_at_the_voxel_of_each_cell_and_depth():
    clues = clues_of(slanted(0.1, 0.1), voxels=(HEIGHT, WIDTH))
    plane = ((1.0 - clues.inverse) / STEP).round().long()
    found = clues.at(clues.inverse)
    assert found.shape == (1, 1 + NUM_MATCHES, 1, HEIGHT, WIDTH)
    assert torch.equal(found[:, 0], clues.probability.gather(1, plane))
    assert torch.equal(found[0, 2], clues.matches[0, 1].gather(0, plane[0]))
    coarse = clues_of(clues.inverse, voxels=(15, 20)).at(clues.inverse)
    assert coarse.shape == found.shape


def test_every_parameter_learns():
    torch.manual_seed(0)
    propagation = SurfacePropagation()
    for parameter in propagation.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    clues = clues_of(0.1 + 0.9 * torch.rand(1, 1, HEIGHT, WIDTH))
    candidates, logits = propagation(clues)
    (logits.softmax(1) * candidates).sum().backward()
    for name, parameter in propagation.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        # A softmax cancels what is added to all candidates.
        assert parameter.grad.abs().max() > 1e-9 or name == "fit.2.bias", name


def test_it_can_learn_to_take_a_halo_away_by_what_the_photo_shows():
    """A card in front of a wall was found too wide by four cells; the photo shows where it ends."""
    torch.manual_seed(0)
    true = torch.full((1, 1, HEIGHT, WIDTH), 0.3)
    true[..., 15:30, 20:40] = 0.8
    halo = F.max_pool2d(true, 9, 1, 4)
    clues = clues_of(halo)
    clues.image[:] = 0.2 + 0.5 * (true > 0.5)
    propagation = SurfacePropagation()
    optimizer = torch.optim.Adam(propagation.parameters(), 3e-3)
    for _ in range(150):
        candidates, logits = propagation(clues)
        loss = (logits.softmax(1) * (candidates - true).abs()).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = (propagation.propagated(clues) - true).abs() > STEP
    assert after.sum() < 0.2 * ((halo - true).abs() > STEP).sum()
