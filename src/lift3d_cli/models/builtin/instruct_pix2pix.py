"""`instruct-pix2pix`: edits photos by an instruction (Brooks et al. 2023, arXiv:2211.09800), split at its latents."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import FeatureMap, Model, ModelSpec, RenderedView
from lift3d_cli.models.builtin.diffusion import noise_field, number
from lift3d_cli.models.pretrained import from_pretrained, require


class InstructPix2Pix(Model):
    """Edits a photo by an instruction: `instruct-pix2pix?prompt=make+it+snow`.

    The features are the denoised latents, scaled as for the UNet (variance about 1); the VAE's decoder decodes them.
    Each photo is edited independently, so the edits differ where the instruction leaves room; the lifted features are
    their blend. Without depth, only the noise can be shared: all photos start from one field of noise, by cell of the
    photo and not by point of the scene, and photos of one size also get the same noise at each step of an ancestral
    scheduler.

    A latent's cell is where the decoder, which is symmetric, places it: cell i covers pixels 8i to 8i + 7. (The VAE's
    encoder pads only at right and bottom and is 3.5 pixels off; the trained decoder compensates for that.)
    Both halves of the VAE normalise and attend over the whole image: decode(encode(photo)) equals the unsplit model
    where the sides are multiples of 64, which photos are padded to by replication; elsewhere, the decoder misses the
    padding.

    The safety checker is not loaded and nothing is filtered; see the licence of the weights.
    """

    spec = ModelSpec(
        name="instruct-pix2pix",
        channels=4,
        stride=8,
        tasks=("edit",),
        version="1",
        # The hub says MIT. The authors' LICENSE adds that the weights, fine-tuned from Stable Diffusion's, may be under
        # its terms too.
        license="MIT AND LicenseRef-CreativeML-OpenRAIL-M",
        summary="edits photos by an instruction: --prompt 'make it snow'; slow without a GPU",
        max_size=512,
        hub="timbrooks/instruct-pix2pix",
        revision="31519b5cb02a7fd89b906d88731cd4d6a7bbf88d",
        download_bytes=4_267_000_000,
        extra="hf",
    )

    def __init__(
        self,
        checkpoint: str = "",
        prompt: str = "",
        steps: str = "20",
        guidance: str = "7.5",
        image_guidance: str = "1.5",
        seed: str = "0",
    ) -> None:
        """Load the weights. Settings are text, as in a reference.

        Args:
            checkpoint: folder or repository of a pipeline; "" for the default.
            prompt: the instruction.
            steps: number of denoising steps.
            guidance: weight of the instruction; at 1, diffusers guides by neither instruction nor photo.
            image_guidance: weight of the photo.
            seed: seed of the noise.

        Raises:
            ModelError: if there is no prompt, a setting is out of range, or the weights belong to another network.
        """
        super().__init__()
        if not prompt.strip():
            raise ModelError(f"model {self.spec.name} needs an instruction. hint: --prompt 'make it snow'")
        self.prompt = prompt
        self.steps = int(number(self.spec.name, "steps", steps, int, 1, 1000))
        self.guidance = number(self.spec.name, "guidance", guidance, float, 1, 100)
        self.image_guidance = number(self.spec.name, "image_guidance", image_guidance, float, 1, 100)
        self.seed = int(number(self.spec.name, "seed", seed, int, 0, 2**63 - 1))
        self.pipeline = _load_pipeline(self.spec, checkpoint)
        self.pipeline.set_progress_bar_config(disable=True)
        # The pipeline is not a module: as attributes, its networks move between devices and are part of the cache key.
        self.text_encoder = self.pipeline.text_encoder
        self.unet = self.pipeline.unet
        self.vae = self.pipeline.vae
        channels, stride = self.vae.config.latent_channels, self.pipeline.vae_scale_factor
        self.spec = dataclasses.replace(self.spec, channels=channels, stride=stride)

    def preprocessing(self) -> dict[str, object]:
        """Return the settings, and the scheduler, which has no weights."""
        scheduler = self.pipeline.scheduler
        facts = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
        return {
            "prompt": self.prompt,
            "steps": self.steps,
            "guidance": self.guidance,
            "image_guidance": self.image_guidance,
            "seed": self.seed,
            "scheduler": [type(scheduler).__name__, facts],
        }

    def noise(self, width: int, height: int) -> tuple[Tensor, torch.Generator]:
        """Return the initial noise [1, C, height, width], and the generator of the steps' noise."""
        generator = torch.Generator().manual_seed(self.seed)
        # Before the steps' noise and not from a generator of its own, which would give the same numbers again.
        return noise_field(generator, self.spec.channels, width, height), generator

    def encode(self, image: Tensor) -> FeatureMap:
        """Edit a photo [3, H, W] in [0, 1], up to the latents."""
        height, width = image.shape[1:]
        # Whole cells at the deepest level of the UNet: 64 pixels with the default checkpoint.
        multiple = self.spec.stride * 2 ** (len(self.unet.config.block_out_channels) - 1)
        pixels = F.pad(image[None], (0, -width % multiple, 0, -height % multiple), mode="replicate")
        latents, generator = self.noise(pixels.shape[3] // self.spec.stride, pixels.shape[2] // self.spec.stride)
        latents = self.pipeline(
            self.prompt,
            pixels,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            image_guidance_scale=self.image_guidance,
            latents=latents,
            generator=generator,
            output_type="latent",
        ).images
        grid = self.grid(width, height)
        return FeatureMap(latents[0, :, : grid.height, : grid.width], grid)

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Decode to the edited view: [3, H, W] in [0, 1]."""
        latents = features.data[None] / self.vae.config.scaling_factor
        colors = (self.vae.decode(latents, return_dict=False)[0][0] / 2 + 0.5).clamp(0, 1)
        # Clamped again, since interpolation rounds.
        return features.finer(colors).at_pixels(view.image.shape[2], view.image.shape[1]).clamp(0, 1)


def _load_pipeline(spec: ModelSpec, checkpoint: str):
    require(spec, "transformers")  # without it, diffusers has only a dummy of the pipeline
    loader = require(spec, "diffusers").StableDiffusionInstructPix2PixPipeline.from_pretrained
    pipeline = from_pretrained(
        spec,
        loader,
        checkpoint,
        safety_checker=None,
        requires_safety_checker=False,
        feature_extractor=None,  # the safety checker's
        low_cpu_mem_usage=False,  # it would need accelerate
    )
    for network in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        network.float()  # the text encoder keeps its file's dtype, which may be half
    unet, latents = pipeline.unet.config, pipeline.vae.config.latent_channels
    if (unet.in_channels, unet.cross_attention_dim) != (2 * latents, pipeline.text_encoder.config.hidden_size):
        raise ModelError(
            f"model {spec.name}: {checkpoint or spec.hub} is of another network: its UNet takes {unet.in_channels} "
            f"channels and texts of {unet.cross_attention_dim}, not {2 * latents} (latents and photo) and "
            f"{pipeline.text_encoder.config.hidden_size}"
        )
    return pipeline
