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
from lift3d_cli.lifting.blending.visibility import NUM_VISIBILITY_INPUTS
from lift3d_cli.lifting.correction.corrector import InconsistencyCorrector
from lift3d_cli.lifting.proposal.network import DepthRegularizer


class Lift3DNetwork(nn.Module):
    """The learned parts of the renderer, in one set of weights: 310,291 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = PhotoPyramid()
        self.regularizer = DepthRegularizer()
        self.blending = BlendingNetwork()
        self.corrector = InconsistencyCorrector()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load weights of any precision.

        In older weights, Stage II has no inputs for visibility and for agreeing views; these inputs get zero weights.

        Raises:
            RuntimeError: if the weights do not belong to this network.
        """
        state = {name: tensor.float() for name, tensor in state.items()}
        first = "blending.view_encoder.0.weight"
        if first in state and state[first].dim() == 2:
            missing = self.blending.view_encoder[0].in_features - state[first].shape[1]
            if missing == NUM_VISIBILITY_INPUTS:
                state[first] = F.pad(state[first], (0, missing))
                added = self.blending.agreeing_encoder.state_dict(prefix="blending.agreeing_encoder.")
                state |= {name: torch.zeros_like(tensor) for name, tensor in added.items()}
        self.load_state_dict(state)

    def to_bfloat16(self, device: torch.device) -> None:
        """Run what gets faster by it in bfloat16: on a CPU the 3-D U-Net (3 times as fast), but not Stage II."""
        for part in (self.regularizer,) if device.type == "cpu" else (self.regularizer, self.blending):
            part.precision = "bf16"
