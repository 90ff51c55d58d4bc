"""`dino`, `dinov2`, `dinov3`: patch features of self-supervised vision transformers, split after the last layer."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.models.base import FeatureMap, ModelSpec
from lift3d_cli.models.heads import FeatureModel
from lift3d_cli.models.pretrained import load_transformers

# ImageNet's mean and deviation, RGB, which all three were trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def whole_patches(image: Tensor, patch: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pad an image [3, H, W] right and bottom by replication to whole patches, and normalise it: [1, 3, H', W']."""
    height, width = image.shape[1:]
    padded = F.pad(image[None].float(), (0, -width % patch, 0, -height % patch), mode="replicate")
    return (padded - padded.new_tensor(mean)[:, None, None]) / padded.new_tensor(std)[:, None, None]


class PatchModel(FeatureModel):
    """A vision transformer as an encoder: features are the patch tokens of the last layer, after the final LayerNorm.

    Class and register tokens, which have no place in the image, are dropped. Subclasses name the networks.
    """

    networks: ClassVar[dict[str, str]]
    network_settings: ClassVar[dict[str, object]] = {}
    inputs: ClassVar[dict[str, object]] = {}

    def __init__(self, checkpoint: str = "") -> None:
        """Load the weights of `checkpoint`, a folder or `owner/repository@revision`, or those of the spec."""
        super().__init__()
        self.network: nn.Module = load_transformers(type(self).spec, self.networks, checkpoint, **self.network_settings)
        config = self.network.config
        self.spec = dataclasses.replace(type(self).spec, channels=config.hidden_size, stride=config.patch_size)
        self._num_others = 1 + getattr(config, "num_register_tokens", 0)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode a photo [3, H, W]; right and bottom are padded by replication to whole patches."""
        grid = self.grid(image.shape[2], image.shape[1])
        pixels = whole_patches(image, self.spec.stride, IMAGENET_MEAN, IMAGENET_STD)
        tokens = self.network(pixel_values=pixels, **self.inputs).last_hidden_state[0, self._num_others :]
        return FeatureMap(tokens.T.reshape(-1, grid.height, grid.width), grid)


class Dino(PatchModel):
    """DINO: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers". Any ViT checkpoint works.

    The learned position embeddings are interpolated to the photo's patches.
    """

    spec = ModelSpec(
        name="dino",
        channels=384,
        stride=8,
        tasks=("features", "segment"),
        version="1",
        license="Apache-2.0",
        summary="self-supervised features in cells of 8 pixels (ViT-S/8)",
        max_size=512,
        hub="facebook/dino-vits8",
        revision="483f2fc47097ae6f0afc8bcfb43004224bddeae2",
        download_bytes=86_700_000,
        extra="hf",
    )
    networks: ClassVar = {"vit": "ViTModel"}
    # The pooler is on top of the class token, and DINO has none: its weights would be random.
    network_settings: ClassVar = {"add_pooling_layer": False}
    inputs: ClassVar = {"interpolate_pos_encoding": True}


class DinoV2(PatchModel):
    """DINOv2: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision".

    Checkpoints without registers (Darcet et al. 2023; with them, such as `facebook/dinov2-with-registers-small`) use
    some cells as memory, which stand out in flat regions.
    """

    spec = ModelSpec(
        name="dinov2",
        channels=384,
        stride=14,
        tasks=("features", "segment"),
        version="1",
        license="Apache-2.0",
        summary="self-supervised features that tell things and their parts apart (ViT-S/14)",
        max_size=518,  # its training size: 37 patches
        hub="facebook/dinov2-small",
        revision="ed25f3a31f01632728cabb09d1542f84ab7b0056",
        download_bytes=88_200_000,
        extra="hf",
    )
    networks: ClassVar = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}


class DinoV3(PatchModel):
    """DINOv3: Siméoni et al. 2025, "DINOv3". Positions are rotary (RoPE), so there is nothing to interpolate.

    The hub gives the weights only to users who have accepted the DINOv3 License there.
    """

    spec = ModelSpec(
        name="dinov3",
        channels=384,
        stride=16,
        tasks=("features", "segment"),
        version="1",
        license="LicenseRef-DINOv3",
        summary="self-supervised features, sharp at high resolution (ViT-S/16); accept the DINOv3 License on the hub",
        max_size=640,
        hub="facebook/dinov3-vits16-pretrain-lvd1689m",
        revision="114c1379950215c8b35dfcd4e90a5c251dde0d32",
        download_bytes=86_400_000,
        extra="hf",
    )
    networks: ClassVar = {"dinov3_vit": "DINOv3ViTModel"}
