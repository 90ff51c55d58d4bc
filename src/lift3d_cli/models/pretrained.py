"""Weights of other people's networks, from a folder, the Hugging Face hub, or its local cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lift3d_cli.cache.location import user_cache
from lift3d_cli.errors import CacheError, Lift3dError, ModelError
from lift3d_cli.machine.atomic import write_atomic
from lift3d_cli.models.base import ModelSpec
from lift3d_cli.weights import download

# What torch puts before the names of a network in a wrapper.
_WRAPPED = re.compile(r"^((module|_orig_mod)\.)+")


def require(spec: ModelSpec, module: str) -> ModuleType:
    """Import a library of an optional extra.

    Raises:
        ModelError: if it is not installed, with the command that installs it.
    """
    try:
        library = importlib.import_module(module)
    except ImportError as e:
        name = module.split(".")[0]
        raise ModelError(
            f"model {spec.name} needs {name}, which is not installed or broken ({e}). "
            f"hint: pip install 'lift3d-cli[{spec.extra}]'"
        ) from e
    reports = getattr(getattr(library, "utils", None), "logging", None)
    if reports is not None:  # transformers and diffusers, which report each step of loading
        reports.set_verbosity_error()
        reports.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports each try to reach the hub
    return library


def from_pretrained(
    spec: ModelSpec, loader: Callable[..., Any], checkpoint: str = "", place: str = "FOLDER", **settings: object
) -> Any:
    """Call `loader(where, ...)`, the `from_pretrained` of a class of transformers or diffusers.

    Args:
        spec: spec of the model, with repository and revision.
        loader: loads safetensors if possible; the libraries read pickles with `weights_only`.
        checkpoint: a folder, or `owner/repository` with an optional `@revision`; "" for the spec's own.
        place: what follows `--model NAME:` to name a folder instead, for hints.
        settings: passed on to `loader`.

    Raises:
        ModelError: if the weights are neither local nor available, or belong to another network.
    """
    if checkpoint and os.path.isdir(checkpoint):
        where, settings = checkpoint, {"local_files_only": True, **settings}
    elif checkpoint and (checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1):
        raise ModelError(f"model {spec.name}: there is no folder {checkpoint}. hint: one with config.json and weights")
    else:
        where, _, revision = checkpoint.partition("@") if checkpoint else (spec.hub, "", spec.revision)
        settings = {**settings, **({"revision": revision} if revision else {})}
    try:
        return loader(where, **settings)
    except Exception as e:  # three libraries, which have error classes of their own for a bad checkpoint
        reason = textwrap.shorten(str(e), 200, placeholder=" ...")
        size = f", {spec.download_bytes / 1e6:.0f} MB" if spec.download_bytes and not checkpoint else ""
        raise ModelError(
            f"model {spec.name}: cannot load {where}{size} ({reason}). "
            f"hint: go online once, or name a folder of it: --model {spec.name}:{place}"
        ) from e


def load_transformers(
    spec: ModelSpec, networks: Mapping[str, str], checkpoint: str = "", place: str = "FOLDER", **settings: object
) -> Any:
    """Load a network of transformers in float32, completely: no weight may be missing and so random.

    Args:
        spec: spec of the model.
        networks: classes by the `model_type` in the checkpoint's config.json.
        checkpoint, place: see `from_pretrained`.
        settings: passed on to the class.

    Raises:
        ModelError: if the checkpoint belongs to another network, or lacks weights.
    """
    transformers = require(spec, "transformers")
    where = checkpoint or spec.hub
    config = from_pretrained(spec, transformers.AutoConfig.from_pretrained, checkpoint, place)
    if config.model_type not in networks:
        raise ModelError(
            f"model {spec.name}: {where} is a network of type {config.model_type!r}. "
            f"hint: it takes {' or '.join(map(repr, networks))}, such as {spec.hub}"
        )
    loader = getattr(transformers, networks[config.model_type]).from_pretrained
    settings = {"config": config, "dtype": torch.float32, "output_loading_info": True, **settings}
    network, report = from_pretrained(spec, loader, checkpoint, place, **settings)
    _check_complete(spec, report["missing_keys"], where)
    return network


def build_transformers(
    spec: ModelSpec, network: str, config: Any, state: Mapping[str, Tensor], where: Path, absent: tuple[str, ...] = ()
) -> Any:
    """Build a network of transformers in float32 from weights that were read from another format.

    Args:
        spec: spec of the model.
        network: its class.
        config: its config.
        state: weights by the names of the hub's files.
        where: the file that they are from.
        absent: beginnings of names of weights that may be missing, and are random then.

    Raises:
        ModelError: if weights are missing, or do not fit.
    """
    loader = getattr(require(spec, "transformers"), network).from_pretrained
    try:
        built, report = loader(
            None, config=config, state_dict=dict(state), dtype=torch.float32, output_loading_info=True
        )
    except (RuntimeError, ValueError, KeyError) as e:
        reason = textwrap.shorten(str(e), 200, placeholder=" ...")
        raise ModelError(f"model {spec.name}: the weights of {where} do not fit {network} ({reason})") from e
    _check_complete(spec, [key for key in report["missing_keys"] if not key.startswith(absent)], where)
    return built


def _check_complete(spec: ModelSpec, missing: Iterable[str], where: str | Path) -> None:
    if missing := sorted(missing):
        raise ModelError(
            f"model {spec.name}: {where} lacks {len(missing)} weights, such as {missing[0]}. "
            f"hint: a complete checkpoint, such as {spec.hub}"
        )


def read_state(spec: ModelSpec, path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors, .pt or .pth file; pickles with `weights_only`, so that they run no code.

    A state dict under a key such as `params` or `state_dict` is unwrapped.

    Raises:
        ModelError: if it cannot be read, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # four libraries, and hostile files
        raise ModelError(
            f"model {spec.name}: {path} cannot be read as weights ({' '.join(str(e).split())[:160]})"
        ) from e
    for key in ("params_ema", "params", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) and not value.is_meta for value in state.values()
    ):
        raise ModelError(f"model {spec.name}: {path} is no state dict: it holds more than tensors")
    return state


def read_converted(spec: ModelSpec, path: Path) -> dict[str, Tensor]:
    """Read a state dict as `read_state` does, a pickle only once: then, its copy in safetensors in the user's cache.

    Prefixes of wrapped networks (`module.`, `_orig_mod.`) are removed.

    Raises:
        ModelError: if it cannot be read, or holds anything but tensors.
    """
    copy = None if path.suffix == ".safetensors" else _copy_of(path)
    if copy and copy.is_file():
        with contextlib.suppress(ModelError):  # a damaged one is made again
            return read_state(spec, copy)
    state = {_WRAPPED.sub("", key): value for key, value in read_state(spec, path).items()}
    if copy:
        from safetensors.torch import save

        with contextlib.suppress(Lift3dError):  # a cache that cannot be written costs time only
            write_atomic(copy, save({key: value.clone().contiguous() for key, value in state.items()}))
    return state


def _copy_of(path: Path) -> Path | None:
    """Return where the copy of a file, as it is now, belongs; None if the user has no cache."""
    facts = path.stat()
    identity = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    try:
        folder = user_cache() / "weights"
    except CacheError:
        return None
    return folder / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}.safetensors"


def hub_file(spec: ModelSpec, name: str, checkpoint: str = "") -> Path:
    """Find a file of weights: `checkpoint` if it is a file, else the file `name` of its repository or the spec's.

    Raises:
        ModelError: if it is neither local nor available.
    """
    if checkpoint and os.path.isfile(checkpoint):
        return Path(checkpoint)
    if checkpoint and (Path(checkpoint).suffix or checkpoint.count("/") != 1):
        raise ModelError(f"model {spec.name}: there is no file {checkpoint}")
    where, _, revision = checkpoint.partition("@") if checkpoint else (spec.hub, "", spec.revision)
    try:
        return download(where, name, revision)
    except OSError as e:
        raise ModelError(
            f"model {spec.name}: {name} of {where} is neither here nor available from the Hugging Face hub ({e}). "
            f"hint: --model {spec.name}:FILE"
        ) from e


def is_here(spec: ModelSpec) -> bool:
    """Return True if the weights ship with lift3d or are in the hub's cache; none are read, nor files looked for."""
    if not spec.hub:
        return not spec.url
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        names = ("config.json", "model_index.json", "pytorch_model.bin")
        found = [try_to_load_from_cache(spec.hub, name, revision=spec.revision or None) for name in names]
    except (HFValidationError, OSError):
        return False
    return any(isinstance(path, str) for path in found)
