"""How well edited images match the edit's captions, by directions between CLIP embeddings.

Direction similarity (StyleGAN-NADA, Gal et al. 2022; InstructPix2Pix, Brooks et al. 2023): the cosine between the
change of the image's embedding and that of two captions, of the image before and after. Direction consistency
(Instruct-NeRF2NeRF, Haque et al. 2023): the cosine between the changes of two neighbouring frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.models.builtin.image_text import Clip
from lift3d_cli.models.registry import find_model


class EditDirection:
    """The direction of an edit's captions, to compare images' directions with.

    Args:
        model: reference of a `clip` model.
        text: captions of the image before and after.
        device: where to compute.

    Raises:
        ModelError: if the model is not CLIP, or its weights are missing.
    """

    def __init__(self, model: str, text: tuple[str, str], device: torch.device | str = "cpu") -> None:
        clip = find_model(model).load()
        if not isinstance(clip, Clip):
            raise ModelError(f"--clip {model}: is no CLIP. hint: --clip clip:FOLDER_OR_REPOSITORY")
        self._clip = clip.to(device)
        with torch.inference_mode():
            before, after = F.normalize(clip.embed_text(list(text)), dim=1)
            self.wanted = after - before

    @torch.inference_mode()
    def of(self, before: Tensor, after: Tensor) -> Tensor:  # [3, H, W] each, in [0, 1], to [C]
        """Return the direction of an image's edit."""
        return self._embed(after) - self._embed(before)

    def _embed(self, image: Tensor) -> Tensor:
        """Embed a whole image in CLIP's space, resized to the network's square, as InstructPix2Pix's metrics do."""
        network, mean, std = self._clip.network, *(image.new_tensor(x)[:, None, None] for x in (Clip.mean, Clip.std))
        side = network.config.vision_config.image_size
        pixels = F.interpolate(image[None], (side, side), mode="bicubic", antialias=True)
        embedded = network.get_image_features(pixel_values=(pixels - mean) / std)
        embedded = embedded if isinstance(embedded, Tensor) else embedded.pooler_output  # transformers 4, 5
        return F.normalize(embedded[0], dim=0)


def alike(a: Tensor, b: Tensor) -> float:  # [C], [C]
    """Return the cosine of two directions; NaN where one is zero."""
    return float(a @ b / (a.norm() * b.norm()))
