"""Which of the encoded features a render lifts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from lift3d_cli.cache.format import EncoderRecord, PhotoRecord
from lift3d_cli.config import EncodeConfig
from lift3d_cli.errors import CacheError
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.encode import encoded_size
from lift3d_cli.pipeline.workspace import Workspace

NO_MODEL = "none"
"""As the only name in `RenderConfig.models`: colour only."""


def choose_encoders(
    workspace: Workspace, used: Sequence[int], models: Sequence[str], warn: Callable[[str], object] = lambda text: None
) -> list[EncoderRecord]:
    """Find the features to lift; an error now, if a photo that is needed is not encoded.

    Args:
        workspace: the scene, with a cache.
        used: indices of the photos that are needed.
        models: names or references; empty for all that are encoded, `NO_MODEL` for none.
        warn: takes a line about features that are taken instead of the last ones.

    Raises:
        CacheError: if there are none, or only of other weights than those that are named.
    """
    if list(models) == [NO_MODEL]:
        return []
    if not models:
        models = list(dict.fromkeys(e.name for e in workspace.cache.encoders(strict=True)))
    return [_complete(workspace, used, _named(workspace, model), warn) for model in dict.fromkeys(models)]


def encode_options(encoder: EncoderRecord) -> str:
    """Return the options of `encode` that make these features, without those that are defaults."""
    defaults = EncodeConfig()
    options = ["--model", shlex.quote(encoder.ref)]
    if encoder.max_size != encoder.spec.get("max_size"):
        options += ["--max-size", str(encoder.max_size)]
    if encoder.dtype != defaults.dtype:
        options += ["--dtype", encoder.dtype]
    if encoder.seed != defaults.seed:
        options += ["--seed", str(encoder.seed)]
    return " ".join(options)


def _named(workspace: Workspace, model: str) -> list[EncoderRecord]:
    """Find the encoders of a name or reference that have the weights of the last one; the last one is first."""
    cache = workspace.cache
    name = re.split(r"[:?]", model)[0]
    is_plain = name == model
    ref = model if is_plain else find_model(model).ref
    latest_first = cache.encoders()[::-1]
    found = [e for e in latest_first if ref in (e.ref, e.name)]
    if found:
        return [e for e in found if _weights(e) == _weights(found[0])]
    others = [e for e in latest_first if e.name == name]
    if not is_plain and others:
        ways = " or ".join(dict.fromkeys(shlex.quote(e.ref) for e in others))
        raise CacheError(
            f"{cache.root}: has features of {name}, but by other weights or settings than {model}. "
            f"hint: --model {ways} takes them; for the others, lift3d encode {workspace.scene.root} "
            f"--model {shlex.quote(model)}"
        )
    return [cache.find_encoder(model)]  # raises its error


def _weights(encoder: EncoderRecord) -> tuple[object, ...]:
    """Return what features of two encoders must share to be taken for each other without asking."""
    facts = encoder.fingerprint
    return encoder.ref, *(facts.get(name) for name in ("version", "weights", "source")), str(facts.get("preprocessing"))


def _complete(
    workspace: Workspace, used: Sequence[int], encoders: Sequence[EncoderRecord], warn: Callable[[str], object]
) -> EncoderRecord:
    """Return the first encoder that has the features of all photos that are needed."""
    lacking = {e.key: _missing(workspace, used, e) for e in encoders}
    latest, missing = encoders[0], lacking[encoders[0].key]
    if not missing:
        return latest
    complete = next((e for e in encoders if not lacking[e.key]), None)
    if complete is None:
        raise CacheError(
            f"{workspace.cache.root}: {len(missing)} of {len(used)} photos are not encoded with {latest.name} "
            f"(first: {missing[0].name}). "
            f"hint: lift3d encode {workspace.scene.root} {encode_options(latest)}"
        )
    warn(
        f"{latest.name}: the features by {encode_options(complete)} are taken; those encoded last, by "
        f"{encode_options(latest)}, lack {len(missing)} of {len(used)} photos"
    )
    return complete


def _missing(workspace: Workspace, used: Sequence[int], encoder: EncoderRecord) -> list[PhotoRecord]:
    records = [workspace.record(i, encoded_size(encoder, workspace.camera(i))) for i in used]
    return workspace.cache.missing(encoder, records)
