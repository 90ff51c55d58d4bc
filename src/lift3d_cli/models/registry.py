"""Registry of 2D models: finds the reference of a name or a file. It holds strings, and imports no model.

A model is a built-in's name, the name of an entry point in the group `lift3d.models` of an installed package, or
`./file.py:Class`. A checkpoint (after a name) and settings may follow, which the class's `__init__` takes as keywords:
`NAME:CHECKPOINT?key=value&key=value`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import urllib.parse
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lift3d_cli.errors import ModelError

if TYPE_CHECKING:
    from lift3d_cli.models.base import Model, ModelSpec

BUILT_INS = {
    "rgb": "lift3d_cli.models.builtin.rgb:Rgb",
    "tiny-colorizer": "lift3d_cli.models.builtin.tiny_colorizer:TinyColorizer",
    "tiny-superres": "lift3d_cli.models.builtin.tiny_superres:TinySuperres",
    "style": "lift3d_cli.models.builtin.style:Style",
    "maps": "lift3d_cli.models.builtin.maps:Maps",
    "torchscript": "lift3d_cli.models.builtin.torchscript:TorchScript",
    "dino": "lift3d_cli.models.builtin.vit:Dino",
    "dinov2": "lift3d_cli.models.builtin.vit:DinoV2",
    "dinov3": "lift3d_cli.models.builtin.vit:DinoV3",
    "clip": "lift3d_cli.models.builtin.image_text:Clip",
    "siglip2": "lift3d_cli.models.builtin.image_text:Siglip2",
    "clipseg": "lift3d_cli.models.builtin.clipseg:ClipSeg",
    "slimsam": "lift3d_cli.models.builtin.slimsam:SlimSam",
    "ovseg": "lift3d_cli.models.builtin.ovseg:OvSeg",
    "ddcolor": "lift3d_cli.models.builtin.ddcolor:DDColor",
    "ddcolor-tiny": "lift3d_cli.models.builtin.ddcolor:DDColorTiny",
    "swin2sr": "lift3d_cli.models.builtin.swin2sr:Swin2SR",
    "resshift": "lift3d_cli.models.builtin.resshift:ResShift",
    "instruct-pix2pix": "lift3d_cli.models.builtin.instruct_pix2pix:InstructPix2Pix",
}
GROUP = "lift3d.models"
_BASE_MODULE = "lift3d_cli.models.base"  # a string, like the models, because it imports torch


@dataclasses.dataclass(frozen=True)
class ModelRef:
    """A model that was found, but not imported.

    Args:
        name: its name in lists; for a file, `file.py:Class`.
        origin: "built-in", "package NAME VERSION" or "file".
        ref: argument of `find_model` that finds this model again, from any folder.
        target: `module:Class`, or `/path/to/file.py:Class`.
        source: the file of a `./file.py:Class` model, else None.
        problem: why it cannot be used; "" if no reason is known.
        settings: keyword arguments of the class, including `checkpoint`.
    """

    name: str
    origin: str
    ref: str
    target: str
    source: Path | None = None
    problem: str = ""
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def spec(self) -> ModelSpec:
        """Return the model's declaration; imports the model, loads no weights.

        Raises:
            ModelError: if it cannot be imported, or is not a proper model class.
        """
        return self._model_class().spec

    def load(self) -> Model:
        """Make an instance ready for inference: eval mode, no gradients.

        Raises:
            ModelError: if it cannot be imported or instantiated.
        """
        model_class = self._model_class()
        self._check_settings(model_class)
        try:
            model = model_class(**self.settings)
            return model.eval().requires_grad_(False)
        except ModelError:
            raise
        except Exception as e:
            if self.origin == "built-in":
                raise  # a bug of ours: keep its traceback
            raise ModelError(f"model {self.name} ({self.origin}) cannot be made: {_one_line(e)}") from e

    def _model_class(self) -> type[Model]:
        if self.problem:
            raise ModelError(f"model {self.name}: {self.problem}")
        where = f"model {self.name} ({self.origin}): {self.target}"
        base = importlib.import_module(_BASE_MODULE)
        module_name, _, class_name = self.target.rpartition(":")
        try:
            module = _import_file(self.source) if self.source else importlib.import_module(module_name)
            candidate = module
            for part in class_name.split("."):
                candidate = getattr(candidate, part)
        except ModelError as e:  # an invalid ModelSpec in the module
            raise ModelError(f"{where}: {e}") from e
        except Exception as e:
            raise ModelError(f"{where} cannot be imported: {_one_line(e)}") from e
        base.check_model_class(candidate, where)
        self._check_name(candidate.spec.name)
        return candidate

    def _check_settings(self, model_class: type[Model]) -> None:
        takes = inspect.signature(model_class).parameters
        for name in self.settings:
            if name not in takes:
                what = "checkpoint" if name == "checkpoint" else f"setting {name!r}"
                known = ", ".join(n for n in takes if n != "checkpoint") or "none"
                raise ModelError(f"model {self.name} takes no {what}. hint: its settings are {known}")

    def _check_name(self, spec_name: str) -> None:
        if self.source is None and spec_name != self.name:
            raise ModelError(f"model {self.name} ({self.origin}): its spec says it is named {spec_name!r}")
        if self.source is not None and spec_name in BUILT_INS:
            raise ModelError(f"model {self.name}: the name {spec_name!r} of its spec is a built-in's; choose another")


def find_model(ref: str) -> ModelRef:
    """Find the model of a `--model` argument, without importing it.

    Raises:
        ModelError: if there is no such model, or more than one.
    """
    if ref in BUILT_INS:
        return ModelRef(ref, "built-in", ref, BUILT_INS[ref])
    match = re.fullmatch(r"([a-z0-9-]+)(?::([^?]*))?(?:\?(.*))?", ref, re.DOTALL)
    if match and match[1] != ref and match[1] in {*BUILT_INS, *(plugin.name for plugin in _plugins())}:
        return _with_settings(find_model(match[1]), match[2] or "", match[3] or "")
    if re.search(r"\.py(:|$)", ref):
        file, _, query = ref.partition("?")
        return _with_settings(_find_file(file), "", query)
    plugins = [plugin for plugin in _plugins() if plugin.name == ref]
    if not plugins:
        names = sorted({*BUILT_INS, *(plugin.name for plugin in _plugins())})
        near = difflib.get_close_matches(ref, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(names)}, and ./file.py:Class."
        raise ModelError(f"no model named {ref!r}. {hint}")
    if plugins[0].problem:
        raise ModelError(f"model {ref}: {plugins[0].problem}")
    return plugins[0]


def find_recorded_model(ref: str, *folders: Path) -> ModelRef:
    """Find the model that a file in a cache or a render names, without importing it.

    Args:
        ref: what the file says.
        folders: the cache, render and scene, which may be somebody else's: code in them is not run. The current folder
            is the user's own.

    Raises:
        ModelError: as `find_model`, or if the model's code lies in one of the folders.
    """
    found = find_model(ref)
    code = [found.source] if found.source else []
    if found.target == BUILT_INS["torchscript"]:
        code = [Path(part) for part in found.settings.get("checkpoint", "").split(",")]
    for path in code:
        for folder in {folder.resolve() for folder in folders} - {Path.cwd()}:
            if path.resolve().is_relative_to(folder):
                raise ModelError(
                    f"model {found.name}: its code {path} lies in {folder}, which may be somebody else's. "
                    "hint: if you trust it, move it elsewhere and encode with it from there"
                )
    return found


def _with_settings(found: ModelRef, checkpoint: str, query: str) -> ModelRef:
    settings = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if checkpoint:
        # Absolute, so that the reference has the same meaning in any folder.
        parts = [Path(part).expanduser() for part in checkpoint.split(",")]
        checkpoint = ",".join(str(p.resolve()) if os.path.exists(p) else str(p) for p in parts)
        settings["checkpoint"] = checkpoint
    others = {name: value for name, value in settings.items() if name != "checkpoint"}
    ref = found.ref + (f":{checkpoint}" if checkpoint else "")
    ref += "?" + urllib.parse.urlencode(others, errors="surrogateescape") if others else ""
    return dataclasses.replace(found, ref=ref, settings=settings)


def list_models() -> list[ModelRef]:
    """List built-ins, then plugins by name; `problem` says why one cannot be used. Imports no model."""
    built_ins = [ModelRef(name, "built-in", name, target) for name, target in BUILT_INS.items()]
    return built_ins + sorted(_plugins(), key=lambda plugin: (plugin.name, plugin.origin))


def _find_file(ref: str) -> ModelRef:
    file, _, class_name = ref.rpartition(":")
    if not file or not class_name.isidentifier():
        raise ModelError(f"{ref}: which class of the file? hint: {ref.rstrip(':')}:MyModel")
    path = Path(file).expanduser().resolve()
    if not os.path.isfile(path):
        raise ModelError(f"{ref}: there is no file {path}")
    target = f"{path}:{class_name}"
    return ModelRef(f"{path.name}:{class_name}", "file", target, target, source=path)


def _plugins() -> list[ModelRef]:
    """List the models of installed packages, with known problems."""
    found: dict[tuple[str, str, str], ModelRef] = {}
    for point in metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist else "unknown"
        origin = f"package {package} {point.dist.version}" if point.dist else f"package {package}"
        # One package may be found twice, for example with its folder twice on the path: that is not a conflict.
        found[point.name, package, point.value] = ModelRef(point.name, origin, point.name, point.value.replace(" ", ""))
    packages: dict[str, list[str]] = {}
    for ref in found.values():
        packages.setdefault(ref.name, []).append(ref.origin)
    return [dataclasses.replace(ref, problem=_problem(ref, packages[ref.name])) for ref in found.values()]


def _problem(ref: ModelRef, origins: list[str]) -> str:
    if ref.name in BUILT_INS:
        return f"{ref.origin} cannot take the name of a built-in"
    if len(origins) > 1:
        return f"{' and '.join(sorted(origins))} have a model of this name. hint: uninstall one"
    if not re.fullmatch(r"[\w.]+:[\w.]+", ref.target):
        return f"{ref.origin} gives {ref.target!r} instead of module:Class"
    return ""


def _import_file(path: Path) -> object:
    # Named after its path, so that two files of one name do not collide in sys.modules.
    name = f"lift3d_model_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up their module there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
