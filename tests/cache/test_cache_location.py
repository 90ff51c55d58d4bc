"""Where the cache is, and how the next command finds it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lift3d_cli.cache import session
from lift3d_cli.cache.location import cache_dir
from lift3d_cli.errors import CacheError, SceneError


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Path:
    """A scene below the current folder, with no variables set."""
    for name in ("LIFT3D_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garden").mkdir()
    return tmp_path / "garden"


@pytest.fixture
def read_only(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)


def test_cache_is_in_the_scene(scene):
    assert cache_dir(scene) == (scene / ".lift3d", None)
    assert cache_dir(Path("garden")).path == Path("garden/.lift3d")
    assert list(scene.iterdir()) == []


def test_option_beats_variable_beats_scene(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("LIFT3D_CACHE", str(tmp_path / "env"))
    assert cache_dir(scene).path.parent == tmp_path / "env"
    assert cache_dir(scene, tmp_path / "flag").path.parent == tmp_path / "flag"
    assert cache_dir(scene, "flag").path.parent == tmp_path / "flag"
    assert cache_dir(scene, "~/flag").path.parent == tmp_path / "home" / "flag"
    monkeypatch.setenv("LIFT3D_CACHE", "")
    assert cache_dir(scene).path == scene / ".lift3d"


def test_scenes_of_one_name_do_not_share_a_folder(scene, tmp_path):
    other = tmp_path / "other" / "garden"
    other.mkdir(parents=True)
    one, two = (cache_dir(s, tmp_path / "all").path for s in (scene, other))
    assert one != two
    assert {p.name.rsplit("-", 1)[0] for p in (one, two)} == {"garden"}


def test_every_way_to_a_scene_leads_to_one_folder(scene, tmp_path):
    (tmp_path / "link").symlink_to(scene)
    ways = [scene, Path("garden"), Path("garden/../garden"), tmp_path / "link"]
    assert len({cache_dir(way, "all").path for way in ways}) == 1


def test_scene_that_cannot_be_written_has_its_cache_at_the_user_s(scene, tmp_path, monkeypatch, read_only):
    path, note = cache_dir(scene)
    assert path.parent == tmp_path / "home" / ".cache" / "lift3d"
    assert str(path) in note
    assert "--cache" in note
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir(scene).path.parent == tmp_path / "xdg" / "lift3d"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir(scene).path == path
    assert cache_dir(scene, "flag").note is None


def test_user_without_a_home_is_told_to_name_a_folder(scene, monkeypatch, read_only):
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(CacheError, match=r"no home folder\. hint: --cache DIR"):
        cache_dir(scene)


def test_nothing_remembered_is_none(scene):
    assert session.recall() is None
    assert session.begin_render() is None
    assert not Path(session.FILE_NAME).exists()


def test_session_round_trip(scene, tmp_path):
    render = scene / ".lift3d" / "renders" / "orbit-12345678"
    render.mkdir(parents=True)
    paths = {"scene": Path("garden"), "cache": Path("/big/disk"), "render": render, "depth": Path("maps")}
    assert session.remember(**paths, models=["rgb"]) is None
    assert json.loads(Path(session.FILE_NAME).read_text()) == {
        "schema": 1,
        "scene": "garden",
        "cache": "/big/disk",
        "render": "garden/.lift3d/renders/orbit-12345678",
        "depth": "maps",
        "mesh": None,
        "models": ["rgb"],
    }
    recalled = session.recall()
    assert recalled == session.Session(scene, Path("/big/disk"), render, scene.parent / "maps", models=("rgb",))
    assert recalled.require_scene() == scene
    assert recalled.require_render() == render


def test_scene_and_session_can_move_together(scene, tmp_path):
    work = tmp_path / "work"
    (work / "garden").mkdir(parents=True)
    session.remember(work / "garden", folder=work)
    work.rename(tmp_path / "moved")
    assert session.recall(tmp_path / "moved").require_scene() == tmp_path / "moved" / "garden"


def test_forgotten_render_is_asked_for(scene):
    session.remember(scene, render=scene / "r")
    with pytest.raises(CacheError, match=r"render of the last command is gone\. hint: lift3d render"):
        session.recall().require_render()
    assert session.begin_render() is None
    assert session.recall() == session.Session(scene, render=scene / "r", has_failed=True)
    assert session.begin_render(is_sure=True) is None
    assert session.recall() == session.Session(scene, has_failed=True)
    with pytest.raises(CacheError, match="nothing is rendered yet"):
        session.recall().require_render()


def test_scene_that_is_gone_is_a_scene_error(scene):
    session.remember(scene)
    scene.rmdir()
    with pytest.raises(SceneError, match=r"garden: the scene of the last command is gone\. hint: name the scene"):
        session.recall().require_scene()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "damaged"),
        (b'{"schema": 1, "scene": "gar', "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 60_000, "damaged"),
        (b"[]", "not made by lift3d"),
        (b'{"schema": 2, "scene": "garden"}', r"made by another version of lift3d \(schema 2\)"),
        (b'{"schema": 1}', "damaged"),
        (b'{"schema": 1, "scene": 3}', "damaged"),
        (b'{"schema": 1, "scene": ""}', "damaged"),
        (b'{"schema": 1, "scene": "a\\u0000b"}', "damaged"),
        (b'{"schema": 1, "scene": "garden", "render": []}', "damaged"),
    ],
)
def test_damaged_session_names_the_file_and_the_way_out(scene, text, reason):
    Path(session.FILE_NAME).write_bytes(text)
    with pytest.raises(CacheError, match=rf"\.lift3d\.json: {reason}.*hint: name the scene, or delete this file") as e:
        session.recall()
    assert "\n" not in str(e.value)


def test_note_that_cannot_be_written_is_only_a_warning(scene, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *args: (_ for _ in ()).throw(OSError(errno.EACCES, "Permission denied")))
    warning = session.remember(scene)
    assert "Permission denied" in warning
    assert "name the scene" in warning


def test_models_are_those_since_the_last_render(scene):
    assert session.models_to_render(scene, ["a"]) == ("a",)
    session.remember(scene, models=["a"])
    assert session.models_to_render(scene, ["b", "a"]) == ("a", "b")
    session.remember(scene, render=scene / "r", models=["a", "b"])
    assert session.models_to_render(scene) == ("a", "b")
    assert session.models_to_render(scene, ["c"]) == ("c",)
    assert session.models_to_render(scene.parent / "another", ["c"]) == ("c",)
