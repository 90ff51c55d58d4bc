"""Names, files and plugins: who is found, who is refused, and in which words."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

import pytest

from lift3d_cli.errors import ModelError
from lift3d_cli.models import registry
from lift3d_cli.models.registry import BUILT_INS, find_model, list_models

MODEL = """
from lift3d_cli import FeatureMap, Model, ModelSpec

class {cls}(Model):
    spec = ModelSpec(name={name!r}, channels=3, stride=1, tasks=("show",), license="MIT")

    def encode(self, image):
        return FeatureMap(image, self.grid(image.shape[2], image.shape[1]))

    def decode(self, features, view, task):
        return features.data
"""


class FakeDistribution:
    def __init__(self, name: str, version: str = "1.0") -> None:
        self.name, self.version = name, version


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Makes entry points appear, as (entry point name, value, package) triples, and modules importable."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(*points, **modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        entries = []
        for name, value, package in points:
            entry = metadata.EntryPoint(name, value, registry.GROUP)
            entries.append(entry._for(FakeDistribution(package)) if package else entry)
        monkeypatch.setattr(metadata, "entry_points", lambda group: entries if group == registry.GROUP else [])

    return install


def _message(ref: str, load: bool = True) -> str:
    with pytest.raises(ModelError) as error:
        find_model(ref).load() if load else find_model(ref)
    assert "\n" not in str(error.value)
    return str(error.value)


EMBEDDED = ("rgb", "style", "tiny-colorizer", "tiny-superres")


def test_models_whose_weights_ship_load_ready_for_use():
    for name in EMBEDDED:
        ref = find_model(name)
        assert (ref.name, ref.origin, ref.ref, ref.source, ref.problem) == (name, "built-in", name, None, "")
        model = ref.load()
        assert model.spec == ref.spec()
        assert model.spec.name == name
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", BUILT_INS)
def test_built_in_declares_itself_without_its_library_or_weights(name):
    spec = find_model(name).spec()
    assert spec.name == name
    assert spec.summary
    if spec.hub:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", spec.hub)
        assert re.fullmatch(r"[0-9a-f]{40}|", spec.revision)
        assert spec.license != "unknown"


def test_checkpoint_and_settings_of_a_reference_are_the_classes_keywords(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enc.pt").touch()
    ref = find_model("torchscript:enc.pt?stride=8&x=a+b")
    assert ref.settings == {"checkpoint": f"{tmp_path / 'enc.pt'}", "stride": "8", "x": "a b"}
    # In any folder it means the same, and it finds itself again.
    monkeypatch.chdir("/")
    assert find_model(ref.ref) == ref


def test_setting_that_a_model_does_not_take_is_one_line():
    with pytest.raises(ModelError, match=r"tiny-colorizer takes no setting 'colour'. hint: its settings are none"):
        find_model("tiny-colorizer?colour=1").load()
    with pytest.raises(ModelError, match="rgb takes no checkpoint"):
        find_model("rgb:a.pt").load()


def test_listing_and_finding_import_neither_torch_nor_a_model():
    code = (
        "import sys; from lift3d_cli.models.registry import *; list_models(); find_model('tiny-colorizer'); "
        "print([m for m in sys.modules if m.split('.')[0] == 'torch' or m.startswith('lift3d_cli.models.')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['lift3d_cli.models.registry']"


def test_unknown_name_offers_the_nearest():
    assert _message("tiny-colouriser", load=False) == (
        "no model named 'tiny-colouriser'. Did you mean 'tiny-colorizer'?"
    )


@pytest.mark.parametrize("ref", ["", "zzz", "os:path", "../../etc", "RGB "])
def test_unknown_name_with_no_neighbour_lists_all(ref):
    message = _message(ref, load=False)
    assert message.startswith(f"no model named {ref!r}. ")
    assert "rgb" in message


def test_file_model_is_found_again_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "my model.py").write_text(MODEL.format(cls="Mine", name="mine"))
    monkeypatch.chdir(tmp_path)
    ref = find_model("./my model.py:Mine")
    assert (ref.name, ref.origin, ref.source) == ("my model.py:Mine", "file", tmp_path / "my model.py")
    monkeypatch.chdir("/")
    again = find_model(ref.ref)
    assert again == ref
    assert again.load().spec.name == "mine"


def test_two_files_of_one_name_do_not_meet(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(MODEL.format(cls="M", name=f"from-{folder}"))
    names = [find_model(f"{tmp_path / folder}/model.py:M").load().spec.name for folder in "aba"]
    assert names == ["from-a", "from-b", "from-a"]


def test_an_edited_file_is_read_again(tmp_path):
    file = tmp_path / "m.py"
    for name in ("one", "two"):
        file.write_text(MODEL.format(cls="M", name=name) + "#" * len(name))
        assert find_model(f"{file}:M").load().spec.name == name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("raise RuntimeError('first\\nsecond')", "cannot be imported: RuntimeError: first second"),
        ("", "cannot be imported: AttributeError"),
        ("M = 3", "must be a class derived from lift3d_cli.Model"),
        ("class M: pass", "must be a class derived from lift3d_cli.Model"),
        ("from lift3d_cli import Model\nclass M(Model): pass", "has no spec"),
        ("from lift3d_cli import Model\nclass M(Model):\n    spec = {'name': 'm'}", "has no spec"),
        (MODEL.format(cls="M", name="No Good"), "model name 'No Good' is not lower-case"),
        (MODEL.format(cls="M", name="m").replace("channels=3", "channels=0"), "spec has channels 0"),
        (MODEL.format(cls="M", name="m").replace("stride=1", "stride=0.5"), "spec has stride 0.5"),
        (MODEL.format(cls="M", name="m").replace('("show",)', "()"), "spec has tasks ()"),
        (MODEL.format(cls="M", name="m").replace("stride=1, ", ""), "missing 1 required positional argument: 'stride'"),
        (MODEL.format(cls="M", name="m").replace("def decode", "def decoed"), "has no decode()"),
        (MODEL.format(cls="M", name="rgb"), "'rgb' of its spec is a built-in's"),
        (MODEL.format(cls="M", name="m") + "\n    def __init__(self, size): ...\n", "cannot be made: TypeError"),
        (MODEL.format(cls="M", name="m") + "\n    def __init__(self): ...\n", "cannot be made: AttributeError"),
    ],
)
def test_a_bad_file_is_one_line_that_says_what_is_wrong(tmp_path, text, complaint):
    (tmp_path / "m.py").write_text(text)
    message = _message(f"{tmp_path}/m.py:M")
    assert complaint in message
    assert "m.py:M" in message


@pytest.mark.parametrize(
    ("ref", "complaint"),
    [
        ("./nothing.py:M", "there is no file"),
        ("nothing.py", "which class of the file? hint: nothing.py:MyModel"),
        ("nothing.py:", "which class of the file?"),
        ("./a.py:M.N()", "which class of the file?"),
        (".py:M", "there is no file"),
    ],
)
def test_a_bad_file_reference_says_what_is_missing(ref, complaint):
    assert complaint in _message(ref, load=False)


def test_an_installed_plugin_is_found_by_its_name(install):
    install(("mine", "plugin_a:Mine", "lift3d-mine"), plugin_a=MODEL.format(cls="Mine", name="mine"))
    ref = find_model("mine")
    assert (ref.origin, ref.ref, ref.source) == ("package lift3d-mine 1.0", "mine", None)
    assert ref.load().spec.license == "MIT"
    assert [listed.name for listed in list_models()] == [*BUILT_INS, "mine"]
    assert "Did you mean 'mine'?" in _message("minee", load=False)


def test_a_plugin_cannot_take_a_built_ins_name(install):
    install(("rgb", "plugin_b:Mine", "lift3d-thief"), plugin_b=MODEL.format(cls="Mine", name="rgb"))
    assert find_model("rgb").origin == "built-in"
    thief = list_models()[-1]
    assert (thief.name, thief.origin) == ("rgb", "package lift3d-thief 1.0")
    assert thief.problem == "package lift3d-thief 1.0 cannot take the name of a built-in"


def test_two_plugins_of_one_name_are_an_error_only_when_it_is_used(install):
    install(
        ("same", "plugin_c:Mine", "lift3d-one"),
        ("same", "plugin_d:Mine", "lift3d-two"),
        ("fine", "plugin_c:Mine", "lift3d-one"),
        plugin_c=MODEL.format(cls="Mine", name="fine"),
    )
    assert find_model("fine").load().spec.name == "fine"
    message = _message("same", load=False)
    assert "package lift3d-one 1.0 and package lift3d-two 1.0" in message
    assert [bool(ref.problem) for ref in list_models() if ref.name == "same"] == [True, True]


def test_one_package_that_is_seen_twice_is_no_clash(install):
    install(*[("mine", "plugin_e:Mine", "lift3d-mine")] * 2, plugin_e=MODEL.format(cls="Mine", name="mine"))
    assert find_model("mine").load().spec.name == "mine"
    assert len(list_models()) == len(BUILT_INS) + 1


def test_a_plugin_that_cannot_be_imported_does_not_disturb_the_others(install):
    install(
        ("broken", "plugin_that_is_not_there:Mine", "lift3d-broken"),
        ("odd", "not a reference", None),
        ("mine", "plugin_f:Mine", "lift3d-mine"),
        plugin_f=MODEL.format(cls="Mine", name="mine"),
    )
    assert len(list_models()) == len(BUILT_INS) + 3
    assert find_model("mine").load().spec.name == "mine"
    message = _message("broken")
    assert "package lift3d-broken 1.0" in message
    assert "No module named 'plugin_that_is_not_there'" in message
    assert "instead of module:Class" in _message("odd")


def test_entry_point_and_spec_must_agree_on_the_name(install):
    install(("mine", "plugin_g:Mine", "lift3d-mine"), plugin_g=MODEL.format(cls="Mine", name="other"))
    assert "its spec says it is named 'other'" in _message("mine")
