"""The training of `tune`: on one scene's photos, scored by photos of it that are kept back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import safetensors.torch
import torch
from torch import Tensor

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.machine.atomic import write_atomic
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.scene.scene import Scene
from lift3d_cli.training import curves
from lift3d_cli.training.renderer import RendererTask

# Kept back is every 4th photo, but no more than cost a seventh of the time; in a height that costs less. One alone may
# gain while all others lose.
_KEEP_BACK_EVERY, _MAX_KEPT_BACK, _KEPT_BACK_HEIGHT = 4, 4, 240
_MIN_PHOTOS = 3
# Scores within the minutes of a tuning.
_NUM_SCORES = 8
# Stage II has few weights, of which a few hundred crops say much. Of the others they say less, while each step moves
# every weight about as far: at higher rates that costs more than it gains, see docs/training.md.
_RATES = {"blending": 5.0}
# Weights between the initial and the best ones are tried too: they forget less of what holds for all scenes.
_SHARES = (0.5,)
BEST = "best.safetensors"
"""The best weights so far, in the folder of the run."""


class TuneTask(RendererTask):
    """Training on a scene, scored by photos of it that are kept back; keeps the best weights in a file.

    Args:
        config: settings; `run` has the file.
        network: network with the initial weights.
        device: where to train.
        scene: with points.
        kept_back: indices of the photos kept back.
    """

    warm_up_steps = 20
    rates: Mapping[str, float] = _RATES

    def __init__(
        self, config: TrainConfig, network: Lift3DNetwork, device: torch.device, scene: Scene, kept_back: Sequence[int]
    ) -> None:
        super().__init__(config, network, device, scenes=[without(scene, kept_back)])
        self.score_every_s = 60 * config.minutes / _NUM_SCORES
        height = min(_KEPT_BACK_HEIGHT, *(view.camera.height for view in scene.views))
        self._judged = HeldOutPhotos(scene, height, held_out=kept_back)
        self._root, self._curves, self._file = scene.root, config.run / curves.CURVES, config.run / BEST
        self._start = self._weights()
        self._best = -math.inf

    def begin(self) -> float:
        """Measure the PSNR with the initial weights, or recall it and the best ones if a tuning was interrupted.

        Raises:
            SceneError: if there is nothing to measure it by.
        """
        if self._file.exists() and self._curves.exists():
            with safetensors.safe_open(self._file, "pt") as file:
                self._best = float(file.metadata()["psnr"])
            return curves.read_curves(self._curves)[0]["psnr"]
        psnr = self._psnr()
        if not math.isfinite(psnr):
            raise SceneError(f"{self._root}: the photos kept back from tuning are all masked. hint: smaller masks")
        self._keep(psnr)
        curves.append_curves(self._curves, {"step": 0, "minutes": 0.0, "psnr": psnr})
        return psnr

    def scores(self) -> Mapping[str, float]:
        """See `TrainingTask`."""
        psnr = self._psnr()
        if psnr > self._best:
            self._keep(psnr)
        return {"psnr": psnr}

    def finish(self) -> tuple[float, float]:
        """Give the network the best weights, of those scored and some between them and the initial ones.

        Returns:
            The share of the tuned weights in them, 0 if none are better than the initial ones; and the PSNR.
        """
        tuned, found = safetensors.torch.load_file(self._file), [(self._best, 1.0)]
        if all(torch.equal(tensor, self._start[name]) for name, tensor in tuned.items()):
            tuned, found = self._weights(), [(self._best, 0.0)]  # the last ones may have gone too far only
        for share in _SHARES:
            self._set(tuned, share)
            found.append((self._psnr(), share))
        psnr, share = max(pair for pair in found if math.isfinite(pair[0]))
        self._set(tuned, share)
        return share, psnr

    def _psnr(self) -> float:
        """Measure the mean PSNR of the photos kept back, rendered from the others by the network as it is."""
        return self._judged.mean_psnr(self.renderer(), self._device, self._judged.held_out, any_exposure=True)

    def _keep(self, psnr: float) -> None:
        """Store the network's weights as the best so far."""
        write_atomic(self._file, safetensors.torch.save(self._weights(), {"psnr": repr(psnr)}))
        self._best = psnr

    def _weights(self) -> dict[str, Tensor]:
        """Copy the weights that are trained."""
        learning = (pair for pair in self.network.named_parameters() if pair[1].requires_grad)
        return {name: tensor.detach().cpu().clone() for name, tensor in learning}

    def _set(self, tuned: Mapping[str, Tensor], share: float) -> None:
        between = {name: self._start[name].lerp(tensor, share) for name, tensor in tuned.items()}
        self.network.load_state_dict({**self.network.state_dict(), **between})


def photos_kept_back(scene: Scene) -> list[int]:
    """Choose the photos to keep back, evenly among those of a scene; return their indices.

    Raises:
        SceneError: if the scene has too few photos.
    """
    num = len(scene.views)
    if num < _MIN_PHOTOS:
        raise SceneError(
            f"{scene.root}: {num} photos are too few to tune to, as one is kept back and one rendered from another. "
            f"hint: {_MIN_PHOTOS} or more"
        )
    kept = min(_MAX_KEPT_BACK, max(1, num // _KEEP_BACK_EVERY))
    return [int((i + 0.5) * num / kept) for i in range(kept)]


def without(scene: Scene, indices: Sequence[int]) -> Scene:
    """Return the scene without some of its photos."""
    return replace(scene, views=tuple(view for i, view in enumerate(scene.views) if i not in indices))
