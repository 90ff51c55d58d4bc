"""All learned parts of the renderer in one set of weights; every output of a network is a scalar weight or logit.

The networks are residual: as initialised, with their last layers at zero, the renderer is the training-free one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.lifting.blending.network import BlendingNetwork
from lift3d_cli.lifting.blending.pyramid import PhotoPyramid
from lift3d_cli.lifting.blending.visibility import NUM_SURFACE_INPUTS, NUM_VISIBILITY_INPUTS
from lift3d_cli.lifting.correction.corrector import InconsistencyCorrector
from lift3d_cli.lifting.propagation import SurfacePropagation
from lift3d_cli.lifting.proposal.network import NUM_CUES, DepthRegularizer

# Channels per voxel before the photos' surfaces were among them.
_OLDER_CUES = 13


class Lift3DNetwork(nn.Module):
    """The learned parts of the renderer, in one set of weights; docs/how-it-works.md counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = PhotoPyramid()
        self.regularizer = DepthRegularizer()
        self.propagation = SurfacePropagation()
        self.blending = BlendingNetwork()
        self.corrector = InconsistencyCorrector()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load weights of any precision.

        In older weights, inputs that they were not trained with get zero weights: those of the photos' surfaces in both
        stages, and those of visibility and of agreeing views in Stage II. With weights without a
        propagation, photos' surfaces stay as Stage I finds them.

        Raises:
            RuntimeError: if the weights do not belong to this network.
        """
        state = {name: tensor.float() for name, tensor in state.items()}
        first = "blending.view_encoder.0.weight"
        if first in state and state[first].dim() == 2:
            missing = self.blending.view_encoder[0].in_features - state[first].shape[1]
            if missing in (NUM_SURFACE_INPUTS, NUM_SURFACE_INPUTS + NUM_VISIBILITY_INPUTS):
                state[first] = F.pad(state[first], (0, missing))
                cues = "regularizer.encoder0.0.weight"
                if state[cues].shape[1] == _OLDER_CUES:  # the smoothed cost was the last of them
                    ordered = state[cues].roll(1, 1)
                    state[cues] = F.pad(ordered, (0, 0) * 3 + (0, NUM_CUES - _OLDER_CUES))
                if missing > NUM_SURFACE_INPUTS:
                    added = self.blending.agreeing_encoder.state_dict(prefix="blending.agreeing_encoder.")
                    state |= {name: torch.zeros_like(tensor) for name, tensor in added.items()}
        if not any(name.startswith("propagation.") for name in state):
            state |= SurfacePropagation().state_dict(prefix="propagation.")
        self.load_state_dict(state)

    def to_bfloat16(self, device: torch.device) -> None:
        """Run what gets faster by it in bfloat16: on a CPU the 3-D U-Net (3 times as fast), but not Stage II."""
        for part in (self.regularizer,) if device.type == "cpu" else (self.regularizer, self.blending):
            part.precision = "bf16"
