"""Find, verify and load the weights that ship with lift3d: safetensors files, listed in `manifest.json` beside them.

The manifest is an object of file names and facts: `sha256`, `bytes`, `license`, and how they were made: `command`,
`data`, `scores`, `commit`, `date`. `lift3d_cli.training.publish` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lift3d_cli.errors import ModelError
from lift3d_cli.machine.reading import read_file

if TYPE_CHECKING:
    from torch import Tensor

_PACKAGE = Path(__file__).resolve().parent
# The wheel has the folder inside the package; a checkout has it beside `src`.
WEIGHT_FOLDERS = (_PACKAGE / "_weights", _PACKAGE.parents[1] / "weights")
MANIFEST = "manifest.json"
_MAX_BYTES = 2 * 2**30  # the network that ships has 0.6 MB


def find_weights(name: str) -> Path:
    """Return the path of the shipped file `name`.

    Raises:
        ModelError: if it is in none of the folders.
    """
    for folder in WEIGHT_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    looked = " and ".join(str(folder) for folder in WEIGHT_FOLDERS)
    raise ModelError(f"no weights {name} in {looked}. hint: the installation is incomplete; install lift3d-cli again")


def find_other_weights(reference: str, name: str) -> Path:
    """Find the file of a `--weights` argument: a path, or the file `name` of a Hugging Face repository.

    Args:
        reference: a path, or `owner/repository` with an optional `@revision`; an existing file takes precedence.
        name: name of the file in the repository.

    Raises:
        ModelError: if it is neither, or the repository cannot be reached and is not in the hub's local cache.
    """
    match = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", reference)
    if os.path.exists(reference) or reference.endswith(".safetensors") or match is None:
        return Path(reference)
    try:
        return download(match[1], name, match[2] or "")
    except OSError as e:
        raise ModelError(f"weights {reference}: no such file, and not available from the Hugging Face hub ({e})") from e


def download(repository: str, name: str, revision: str = "") -> Path:
    """Get a file of a Hugging Face repository, from the hub or from its local cache.

    Raises:
        OSError: with the reason, if it is in neither.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        raise OSError(" ".join(str(e).split()).split(". ")[0]) from e


def load_weights(name: str, path: Path | None = None) -> dict[str, Tensor]:
    """Load the shipped file `name`, verified against the manifest, or the file `path` without verification.

    Raises:
        ModelError: if the file is missing, is not the one in the manifest, or is not safetensors.
    """
    import safetensors.torch  # imports torch

    shipped = path is None
    path = find_weights(name) if path is None else Path(path)
    try:
        content = read_file(path, _MAX_BYTES)
    except OSError as e:
        raise ModelError(f"weights {path} cannot be read: {e.strerror}") from e
    if shipped:
        want = read_manifest(path.parent).get(name, {}).get("sha256")
        if want is None:
            raise ModelError(f"weights {path} are not in {MANIFEST} beside them, so they cannot be verified")
        if hashlib.sha256(content).hexdigest() != want:
            raise ModelError(f"weights {path} are damaged or replaced: their sha256 is not the one in {MANIFEST}")
    try:
        return safetensors.torch.load(content)
    except Exception as e:  # the library's own class, but also KeyError and ValueError for hostile headers
        raise ModelError(f"weights {path} are not a readable safetensors file: {' '.join(str(e).split())}") from e


def read_manifest(folder: Path) -> dict[str, dict]:
    """Read the facts of each file in a weights folder; empty without a manifest.

    Raises:
        ModelError: if the manifest is unreadable.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(read_file(path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path} cannot be read: {' '.join(str(e).split())}") from e
    if not isinstance(manifest, dict) or not all(isinstance(facts, dict) for facts in manifest.values()):
        raise ModelError(f"{path} is not an object of objects, file name -> facts")
    return manifest
