"""Which of the encoded features a render lifts."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from lift3d_cli.cache.format import EncoderRecord, PhotoRecord
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import NO_MODEL, EncodeConfig
from lift3d_cli.errors import CacheError, ModelError, UsageError
from lift3d_cli.models.registry import find_model, list_models
from lift3d_cli.pipeline.encode import encoded_size
from lift3d_cli.pipeline.workspace import Workspace


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
        UsageError, CacheError, ModelError: as for `named_encoders`, or if a photo is not encoded.
    """
    if not models:
        models = list(dict.fromkeys(e.name for e in workspace.cache.encoders(strict=True)))
    named = named_encoders(workspace.cache, workspace.scene.root, models)
    return [_complete(workspace, used, encoders, warn) for encoders in named]


def named_encoders(cache: SceneCache, scene: Path, models: Sequence[str]) -> list[list[EncoderRecord]]:
    """Find the encoders of each name or reference that have the weights of the last one; the last one is first.

    Args:
        cache: of the scene.
        scene: its folder, for hints.
        models: names or references, `NO_MODEL` alone for none.

    Raises:
        UsageError: if `NO_MODEL` is not alone.
        CacheError: if there are none, or only of other weights than those that are named.
        ModelError: if a reference is of no model.
    """
    if list(models) == [NO_MODEL]:
        return []
    if NO_MODEL in models:
        raise UsageError(f"--model {NO_MODEL}: is for colour only, not with other models. hint: leave one of them out")
    return [_named(cache, scene, model) for model in dict.fromkeys(models)]


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


def _named(cache: SceneCache, scene: Path, model: str) -> list[EncoderRecord]:
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
            f"hint: --model {ways} takes them; for the others, lift3d encode {scene} "
            f"--model {shlex.quote(model)}"
        )
    record = cache.find_encoder(model)
    if record is None:
        raise CacheError(f"{cache.root}: has no features of {model}{_way_out(scene, model, latest_first)}")
    return [record]


def _way_out(scene: Path, model: str, encoders: Sequence[EncoderRecord]) -> str:
    """Say what to do where a model is not encoded: encode it, if there is such a model."""
    encoded = list(dict.fromkeys(e.name for e in encoders))
    try:
        find_model(model)
    except ModelError:
        near = difflib.get_close_matches(model, [*encoded, NO_MODEL], n=1)
        near = near or difflib.get_close_matches(model, [ref.name for ref in list_models()], n=1)
        if near and near[0] not in (*encoded, NO_MODEL):
            return f". Did you mean {near[0]!r}? hint: lift3d encode {scene} --model {near[0]}"
        if near:
            return f". Did you mean {near[0]!r}?"
        if encoded:
            return f", only of {', '.join(encoded)}. hint: --model one of these, or lift3d encode another model"
        return f". hint: lift3d encode {scene} --model one of those that lift3d models lists, or ./file.py:Class"
    return f". hint: lift3d encode {scene} --model {shlex.quote(model)}"


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
