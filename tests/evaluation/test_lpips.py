"""LPIPS: its value by hand on networks that hand on their input, what counts, and files that are not its weights."""

from __future__ import annotations

import pytest
import torch
from lpips_weights import LINE, save_lpips, zeroed_color

from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.evaluation.lpips import Lpips

ALL = torch.ones(64, 96, dtype=torch.bool)
# With all channels but one at 0 after the network's own centring, features are unit vectors: red's and green's.
RED, GREEN = (zeroed_color(channel)[:, None, None].expand(3, 64, 96) for channel in (0, 1))


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request, tmp_path_factory) -> Lpips:
    return Lpips(save_lpips(tmp_path_factory.mktemp("lpips") / "lpips.safetensors", request.param))


def test_distance_of_red_and_green_is_the_sum_of_their_weights_in_each_of_five_layers(lpips):
    assert lpips(RED, GREEN, ALL) == pytest.approx(5 * (LINE[0] + LINE[1]), rel=1e-5)
    assert lpips(RED, RED, ALL) == 0


def test_length_of_a_feature_does_not_count(lpips):
    assert lpips(zeroed_color(0, 0.3)[:, None, None].expand_as(RED), RED, ALL) == pytest.approx(0, abs=1e-9)


def test_pixels_that_do_not_count_do_not_count(lpips):
    half = ALL.clone()
    half[:, 48:] = False
    assert lpips(torch.where(half, GREEN, RED), GREEN, half) == 0
    assert lpips(torch.where(half, RED, torch.tensor(7.0)), GREEN, half) > 4 * (LINE[0] + LINE[1])  # but for the seam


def test_distance_is_the_mean_over_the_picture(tmp_path):
    lpips = Lpips(save_lpips(tmp_path / "w.safetensors", "vgg"))  # whose pooling takes 64 and 96 pixels apart evenly
    left = torch.arange(96).expand(64, 96) < 48
    assert lpips(torch.where(left, RED, GREEN), GREEN, ALL) == pytest.approx(2.5 * (LINE[0] + LINE[1]), rel=1e-5)


def test_file_of_other_weights_is_refused_with_what_it_lacks(tmp_path):
    path = save_lpips(tmp_path / "w.safetensors", "vgg", leave_out="lin3.model.1.weight")
    with pytest.raises(ModelError, match=r"has no tensor 'lin3\.model\.1\.weight'. hint: the state dict of lpips"):
        Lpips(path)


def test_missing_file_and_unknown_repository_are_refused_in_a_line(tmp_path):
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        Lpips(str(tmp_path / "none.safetensors"))


def test_picture_too_small_for_the_network_is_refused(lpips):
    with pytest.raises(SceneError, match=r"too small. hint: --height 32"):
        lpips(RED[:, :16], GREEN[:, :16], ALL[:16])
