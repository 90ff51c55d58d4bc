"""CLIP's directions: a known angle, and embeddings that are those of the library."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.evaluation.editing import EditDirection, alike

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
TEXT = ("a photo of the floor", "a photo of a chair")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    from tiny_checkpoints import save_clip

    return save_clip(tmp_path_factory.mktemp("clip"))


def test_directions_of_half_a_right_angle():
    assert alike(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 3.0])) == pytest.approx(math.sqrt(0.5))
    assert alike(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 0.0])) == pytest.approx(-1)
    assert math.isnan(alike(torch.zeros(2), torch.ones(2)))  # nothing was edited


def test_direction_is_the_difference_of_the_librarys_normalised_embeddings(checkpoint):
    network = transformers.CLIPModel.from_pretrained(checkpoint).eval()
    edit = EditDirection(f"clip:{checkpoint}", TEXT)
    side = network.config.vision_config.image_size
    before, after = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x)[:, None, None] for x in ([0.4815, 0.4578, 0.4082], [0.2686, 0.2613, 0.2758]))

    def embedded(image: torch.Tensor) -> torch.Tensor:
        out = network.get_image_features(pixel_values=((image - mean) / std)[None])
        return F.normalize(getattr(out, "pooler_output", out)[0], dim=0)

    with torch.no_grad():
        want = embedded(after) - embedded(before)
    torch.testing.assert_close(edit.of(before, after), want, atol=2e-3, rtol=0)
    assert want.abs().max() > 0.05


def test_wanted_direction_leads_from_the_first_caption_to_the_second(checkpoint):
    edit, back = (EditDirection(f"clip:{checkpoint}", text) for text in (TEXT, TEXT[::-1]))
    assert edit.wanted.norm() > 0.1
    assert alike(edit.wanted, back.wanted) == pytest.approx(-1, abs=1e-5)


def test_pictures_of_any_size_are_compared(checkpoint):
    edit = EditDirection(f"clip:{checkpoint}", TEXT)
    assert edit.of(torch.rand(3, 30, 80), torch.rand(3, 60, 160)).isfinite().all()


def test_other_model_is_no_clip():
    with pytest.raises(ModelError, match=r"--clip rgb: is no CLIP. hint: --clip clip:"):
        EditDirection("rgb", TEXT)
