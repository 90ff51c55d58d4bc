"""Build the renderer: the learned networks with their weights, or the training-free one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from lift3d_cli.config import VARIANTS, RenderConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.lifting.blending.learned import LearnedBlending
from lift3d_cli.lifting.correction.corrector import InconsistencyCorrector
from lift3d_cli.lifting.correction.prediction import FeaturePrediction
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.learned import (
    SURFACE_MOST_VIEWS,
    SURFACE_PLANES,
    SURFACE_VOXELS,
    SURFACE_VOXELS_PER_PLANE,
    LearnedProposal,
)
from lift3d_cli.lifting.proposal.network import NUM_LATENTS
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal, UniformProposal
from lift3d_cli.lifting.refinement import SurfaceFinder
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.machine.device import resolve_memory, resolve_precision
from lift3d_cli.weights import find_other_weights, load_weights

SHIPPED_WEIGHTS = "lift3d.safetensors"
# For ablations only.
SINGLE_STAGE_WEIGHTS, PREDICTION_WEIGHTS = "single-stage.safetensors", "feature-prediction.safetensors"
# Four times the samples of the two-stage renderer, as no proposal says where the surface is.
SINGLE_STAGE_SAMPLES = 32


def make_renderer(config: RenderConfig, device: torch.device | str = "cpu", variant: str = "full") -> Renderer:
    """Build the renderer for some settings.

    Args:
        config: planes, samples, memory, weights and precision.
        device: where it will run.
        variant: "full"; "no-correction": without the corrector; "single-stage": without Stage I, from samples all along
            the ray; "feature-prediction": a head regresses the features; "training-free": without any network.

    Raises:
        ModelError: if the weights are missing, damaged or those of another network.
        ResourceError: if the memory or the precision is not a valid setting.
    """
    memory_bytes = resolve_memory(config.memory, torch.device(device))
    if variant not in VARIANTS:
        raise ValueError(f"no variant named {variant!r}")
    if variant == "training-free":
        planes = min(config.planes, PlaneSweepProposal.num_planes)
        return Renderer(PlaneSweepProposal(planes), num_samples=config.samples, memory_bytes=memory_bytes)
    network, identity = load_network(config.weights)
    # Found again for other weights of these only.
    of_stage_1, of_propagation = (_digest(part.state_dict()) for part in (network.regularizer, network.propagation))
    network.to(device)
    precision = resolve_precision(config.precision, torch.device(device))
    if precision == "bf16":
        network.to_bfloat16(torch.device(device))
    proposal = LearnedProposal(network.regularizer, identity, config.planes, precision=precision)
    blending = LearnedBlending(network.pyramid, network.blending, identity, precision)
    # The same whatever the settings of a render, so that each photo's surface is found once.
    of_surfaces = LearnedProposal(
        network.regularizer,
        of_stage_1,
        SURFACE_PLANES,
        voxels_per_plane=SURFACE_VOXELS_PER_PLANE,
        max_voxels=SURFACE_VOXELS,
        most_views=SURFACE_MOST_VIEWS,
        precision=precision,
        keeps_matches=True,
    )
    surface_finder = SurfaceFinder(of_surfaces, network.propagation, of_propagation)
    corrector, samples = network.corrector, config.samples
    if variant == "single-stage":
        own = load_weights(SINGLE_STAGE_WEIGHTS)
        network.load({**network.state_dict(), **own})
        proposal, samples, surface_finder = UniformProposal(NUM_LATENTS), SINGLE_STAGE_SAMPLES, None
    elif variant == "no-correction":
        corrector = None
    elif variant == "feature-prediction":
        corrector = load_prediction(network.corrector, device)
    return Renderer(proposal, blending, samples, memory_bytes, corrector, surface_finder)


def load_prediction(corrector: InconsistencyCorrector, device: torch.device | str = "cpu") -> FeaturePrediction:
    """Load the feature prediction head with the weights that ship with lift3d.

    Raises:
        ModelError: if the weights are missing or damaged.
    """
    prediction = FeaturePrediction(corrector)
    state = load_weights(PREDICTION_WEIGHTS)
    prediction.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return prediction.to(device).eval().requires_grad_(False)


def load_network(weights: str) -> tuple[Lift3DNetwork, str]:
    """Load the network for inference; return it with the sha256 of its weights."""
    state = load_weights(SHIPPED_WEIGHTS, find_other_weights(weights, SHIPPED_WEIGHTS) if weights else None)
    network = Lift3DNetwork()
    try:
        network.load(state)
    except RuntimeError as e:
        raise ModelError(f"weights {weights or SHIPPED_WEIGHTS}: are not those of the Lift3D network") from e
    return network.eval().requires_grad_(False), _digest(state)


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
