"""Which renderer: the learned network with its weights, or the training-free one that it grew from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.lifting.learned import LearnedBlending, LearnedProposal
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal import PlaneSweepProposal
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.stages.device import parse_bytes
from lift3d_cli.weights import load_weights

SHIPPED_WEIGHTS = "lift3d.safetensors"


def make_renderer(config: RenderConfig, device: torch.device | str = "cpu", variant: str = "full") -> Renderer:
    """The renderer that settings describe.

    Args:
        config: planes, samples, memory and weights of it.
        device: where it will run.
        variant: "full" or "training-free".

    Raises:
        ModelError: if the weights are missing, damaged or those of another network.
        ResourceError: if the memory is not a size.
    """
    memory_bytes = parse_bytes(config.memory)
    if variant == "training-free":
        return Renderer(PlaneSweepProposal(config.planes), num_samples=config.samples, memory_bytes=memory_bytes)
    network, identity = _load_network(config.weights)
    network.to(device)
    proposal = LearnedProposal(network, identity, config.planes)
    return Renderer(proposal, LearnedBlending(network, identity), config.samples, memory_bytes)


def _load_network(weights: str) -> tuple[Lift3DNetwork, str]:
    """The network, ready to use, and the sha256 of its weights."""
    state = load_weights(SHIPPED_WEIGHTS, Path(weights) if weights else None)
    network = Lift3DNetwork()
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as e:
        raise ModelError(f"weights {weights or SHIPPED_WEIGHTS}: are not those of the Lift3D network") from e
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return network.eval().requires_grad_(False), digest.hexdigest()
