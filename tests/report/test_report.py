"""`lift3d report` without a browser: what is in the page, and that what it says is so."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import plane_world
import pytest
from reporting import METRICS, data_of, lift3d, open_run
from typer.testing import CliRunner

import lift3d_cli
from lift3d_cli.cache.renders import Render
from lift3d_cli.cli.app import app
from lift3d_cli.config import ReportConfig
from lift3d_cli.errors import Lift3dError, ResourceError
from lift3d_cli.machine.png import read_png
from lift3d_cli.report import collect, page, pictures, plot, sections, tables
from lift3d_cli.report.compare import ALONE, LIFTED, Comparison

# ---- the page --------------------------------------------------------------------------------------------------------


def test_page_has_everything_in_it_and_names_no_other_file(html):
    assert len(html.encode()) < page.MAX_BYTES
    assert re.findall(r'<section id="(\w+)"', html) == ["compare", "videos", "cameras", "inside", "metrics", "made"]
    addresses = re.findall(r"""(?:src|href)="([^"]*)"|url\(([^)]*)\)""", html)
    assert addresses
    assert all((a or b).startswith("data:") for a, b in addresses)
    assert "http" not in html.split("<style>")[1].replace("http-equiv", "")
    assert not re.search(r"\{\{\w+\}\}", html)


def test_every_picture_and_video_of_the_page_can_be_read(html):
    import imageio.v2 as imageio

    data = data_of(html)
    assert [(pair["left"], pair["right"]) for pair in data["pairs"]] == [
        ("rendered", "lifted negative"),
        ("2D patches", "lifted negative"),
        ("rendered", "lifted recolor"),
        ("2D patches", "lifted recolor"),
    ]
    assert [len(pair["frames"]) for pair in data["pairs"]] == [8] * 4
    for clips in data["videos"]:
        assert len(clips) == 3
        for clip in clips:
            frames = imageio.mimread(base64.b64decode(clip["mp4"]), format="mp4")
            assert len(frames) == 8
            assert frames[0].shape == (48, 64, 3)
    for uri in re.findall(r"data:image/jpeg;base64,[\w+/=]+", html):
        assert base64.b64decode(uri.split(",")[1])[:2] == b"\xff\xd8"


def test_commands_of_the_page_lead_to_the_same_pictures(folder, html):
    was = open_run(folder)
    encoded = {path: path.stat().st_mtime_ns for path in folder.glob("scene/.lift3d/feats/*/*.safetensors")}
    poses = re.search(r'download="path.json" href="data:application/json;base64,([^"]+)"', html)[1]
    (folder / "path.json").write_bytes(base64.b64decode(poses))
    lines = unescape(re.search(r"<pre><code>(.*?)</code></pre>", html, re.DOTALL)[1]).splitlines()
    # The page was made in another folder, which it does not name and this one is a copy of.
    commands = [line.split()[1:] for line in lines]
    assert [words[0] for words in commands] == ["encode", "render", "decode", "decode"]
    assert len(was.tasks) == 2
    decoded = {task.name: was.decoded_frames(task) for task in was.tasks}
    shutil.rmtree(folder / "lift3d-out")
    again = Render.open(Path([lift3d(*words) for words in commands][1]))
    assert {path: path.stat().st_mtime_ns for path in encoded} == encoded  # the features are those that are there
    assert again.renderer == was.render.renderer
    for frame in was.frames:  # the poses went through a file and back
        assert np.abs(read_png(again.color_path(frame.index)).astype(int) - frame.image).max() <= 2
    for task in was.tasks:
        assert np.abs(np.subtract(decoded[task.name], was.decoded_frames(task), dtype=int)).max() <= 2


def test_what_is_missing_is_said_and_not_shown(folder):
    shutil.rmtree(folder / "lift3d-out")
    lift3d("report", "--output", "bare.html")
    bare = (folder / "bare.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', bare) == ["cameras", "inside", "made"]
    assert "They are not decoded yet." in bare


def test_page_of_colour_alone_speaks_of_no_encoding(folder):
    lift3d("path", "scene", "views", "--every", "3", "--output", "few.json")
    fast = ("--views", "2", "--planes", "8", "--samples", "2")
    render = lift3d("render", "scene", "--poses", "few.json", "--model", "none", *fast)
    html = (folder / lift3d("report", render, "--output", "few.html")).read_text(encoding="utf-8")
    assert "without a model" in html
    assert "encoded" not in html
    assert "Colour and features" not in html
    assert "not decoded yet" not in html


def test_report_names_its_file_and_its_size(folder):
    said = json.loads(CliRunner().invoke(app, ["report", "--no-compare-2d", "--json"]).stdout)
    file = Path(said["report"])
    assert file.name == "report.html"
    assert file.stat().st_size == said["bytes"]
    assert len(data_of(file.read_text(encoding="utf-8"))["videos"][0]) == 2


def test_segmentation_is_shown_over_the_colour_with_its_legend(folder):
    run = open_run(folder)
    shutil.copytree(run.decoded / "negative", run.decoded / "negative-overlay")
    legend = run.decoded / "negative-legend.json"
    legend.write_text(json.dumps([{"index": 0, "name": "a <wall>", "color": [1, 2, 3]}]))
    pairs = data_of(page.make_report(run, ReportConfig(compare_2d=False)))["pairs"]
    assert [pair["legend"] for pair in pairs] == [[["a <wall>", "rgb(1 2 3)"]], []]
    legend.write_text('[{"name": 1}]')
    with pytest.raises(Lift3dError, match="no legend of a segmentation"):
        open_run(folder).tasks  # noqa: B018


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is no JSON"), ("{", "is no JSON"), ("\xff", "is no JSON")], ids=str
)
def test_metrics_that_are_no_json_are_refused_in_one_line(folder, content, message):
    if content is not None:
        Path("other.json").write_text(content, encoding="latin-1")
    done = CliRunner().invoke(app, ["report", "--metrics", "other.json"])
    assert done.exit_code == 3
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_unfinished_render_is_refused(folder):
    next(folder.glob("scene/.lift3d/renders/*/frames/*.safetensors")).unlink()
    with pytest.raises(Lift3dError, match=r"1 of 8 frames are not rendered yet\. hint: run lift3d render again"):
        open_run(folder)


def test_page_that_is_too_large_is_made_smaller_and_then_refused(folder, monkeypatch, html):
    run, config = open_run(folder), ReportConfig(compare_2d=False)
    whole = page.make_report(run, config)
    monkeypatch.setattr(page, "MAX_BYTES", len(whole.encode()) - 1)
    smaller = page.make_report(run, config)
    assert len(smaller.encode()) < len(whole.encode())
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    with pytest.raises(ResourceError, match="hint: smaller --frames"):
        page.make_report(run, config)


def test_long_paths_are_thinned_out_and_the_video_takes_as_long(folder):
    run = open_run(folder, max_frames=3)
    assert list(run.shown) == [0, 3, 6]
    assert run.fps == pytest.approx(4 / 3)
    assert "One in 3 frames of the path is shown, 1.33 a second" in page.make_report(
        run, ReportConfig(compare_2d=False)
    )


# ---- tables, colours, cameras ----------------------------------------------------------------------------------------


def test_table_marks_the_best_rival_by_the_metric_s_direction():
    rows = {"a": {"psnr": 30.0, "rmse": 0.1}, "b": {"psnr": 20.0, "rmse": 0.05}, "oracle": {"psnr": 99.0, "rmse": 0.0}}
    html = tables.table("", rows, is_comparison=True)
    assert re.findall(r'class="best"[^>]*>([^<]*)<', html) == ["30", "0.05"]
    assert "psnr ↑" in html
    assert "rmse ↓" in html
    assert re.findall(r"--share:(\d+)%", html)[:2] == ["30", "100"]


def test_tables_take_any_result_and_escape_what_it_says(html):
    document = {"<b>": {"x": {"psnr": float("nan")}, "y": {"psnr": None}}, "list": [1, "two"], "deep": {"a": {"b": 1}}}
    made = tables.metrics_html("<script>", document)
    assert "<script>" not in made
    assert "&lt;b&gt;" in made
    assert made.count("–") == 2
    assert "31.5 dB" in html
    assert "images" not in tables.metrics_html("m", {"views": [{"name": "n", "psnr": 1.0, "sources": ["images"]}]})


def test_colours_go_from_the_first_to_the_last_of_the_map():
    low, high = pictures.colored(np.array([[-1.0, 2.0]]), pictures.CORRECTION)[0]
    assert low.sum() < 30
    assert high.sum() > 550
    assert pictures.gradient(pictures.CORRECTION).count("rgb") == 9


def test_frustum_has_its_corners_where_the_camera_sees_them():
    camera = plane_world.look_at((1.0, 2.0, -4.0), width=40, height=20, focal=40.0)
    apex, *corners = plot._corners(camera, 0.5)
    assert apex == pytest.approx(camera.position)
    uv, z = camera.project(np.array(corners))
    assert uv == pytest.approx(np.array([(0, 0), (40, 0), (40, 20), (0, 20)]), abs=1e-9)
    assert np.linalg.norm(corners[1] - corners[0]) == pytest.approx(0.5)
    assert z == pytest.approx(np.full(4, z[0]))


def test_plot_has_up_upwards_and_what_is_looked_at_in_the_middle(html):
    plot = data_of(html)["plot"]
    assert [photo["name"] for photo in plot["photos"]] == [f"images/{i:02d}.png" for i in range(4)]
    at = np.array([photo["at"] for photo in plot["photos"]])
    assert (at[:, 1, 2] > at[:, 4, 2]).all()  # the picture's top is above its bottom
    assert np.abs(at).max() < 1.5
    points = np.array(plot["points"])
    assert len(points) > 100
    assert (points[:, 1] > at[:, 0, 1].max()).all()  # in front of the cameras, which look along +y
    assert ((points[:, 3:] >= 0) & (points[:, 3:] <= 255)).all()
    assert len(plot["path"]) == 8


# ---- the truth -------------------------------------------------------------------------------------------------------


def test_metrics_of_another_scene_are_refused(folder):
    Path("other.json").write_text(json.dumps({"scene": "garden", "mean": {"psnr": 40.0}}))
    done = CliRunner().invoke(app, ["report", "--metrics", "other.json"])
    assert done.exit_code == 3
    assert "other.json: is of garden, the render is of scene. hint: lift3d eval" in done.stderr


def test_metrics_are_of_a_scene_by_its_photos_wherever_it_lies(folder):
    digest = open_run(folder).workspace.photos_digest()
    Path("m.json").write_text(json.dumps(METRICS | {"photos": digest, "scene": "elsewhere"}))
    lift3d("report", "--metrics", "m.json", "--no-compare-2d")
    for other in (
        {"photos": "0" * 32},
        {"views": [{"name": "images/99.png", "psnr": 1.0}]},
    ):  # the folder's name is one
        Path("m.json").write_text(json.dumps(METRICS | other))
        done = CliRunner().invoke(app, ["report", "--metrics", "m.json"])
        assert done.exit_code == 3
        assert "m.json: is of scene, the render is of other photos. hint: lift3d eval" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("document", [{"a": 1}, [1, 2], "text", None, {"mean": {"psnr": 1.0}}])
def test_json_that_has_no_metrics_is_refused(folder, document):
    Path("m.json").write_text(json.dumps(document))
    done = CliRunner().invoke(app, ["report", "--metrics", "m.json"])
    assert done.exit_code == 3
    assert "m.json: is no result of lift3d eval --json. hint: lift3d eval" in done.stderr


def test_page_names_no_folder_of_this_machine_and_gives_no_hints(folder):
    older = METRICS | {"not_measured": {"lpips": "no weights; --lpips FILE"}}
    Path("older.json").write_text(json.dumps(older))
    for name in ("metrics.json", "older.json"):
        made = page.make_report(open_run(folder), ReportConfig(metrics=(folder / name,)))
        assert "no weights" in made
        for wrong in (str(folder.resolve()), "/tmp/", "hint:", "--lpips"):
            assert wrong not in made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/of/mine/cache/x-1: has no features of dino. hint: lift3d encode /a/b", "x-1: has no features of dino"),
        ("model of ~/models/net.py:Net changed", "model of net.py:Net changed"),
        (r"D:\data\scene\a.png: gone", "a.png: gone"),
        ("1/2 of images/01.png; see docs/a.md", "1/2 of images/01.png; see docs/a.md"),
    ],
)
def test_lines_for_others_have_neither_folders_nor_hints(text, said):
    assert collect.for_others(text) == said


def test_public_page_has_no_names_commands_or_versions(folder, monkeypatch):
    warning = "worst (images/00.png), before images/00.png-2: few photos see it. hint: --views"
    monkeypatch.setattr(sections, "judge", lambda render: SimpleNamespace(warnings=[warning]))
    config = ReportConfig(compare_2d=False, public=True, metrics=(folder / "metrics.json",))
    made = page.make_report(open_run(folder), config)
    for private in ("lift3d encode", "Python 3", "torch", lift3d_cli.__version__):
        assert private not in made
    assert made.count("images/0") == made.count("images/00.png-2") == 1
    assert "<th>photo 2</th>" in made
    assert "worst (photo 1)" in made
    assert data_of(made)["plot"]["photos"][0]["name"] == "photo 1"


@pytest.mark.parametrize(
    ("ours", "theirs", "said"), [(1.0, 1.02, "about as much"), (1.0, 2.0, "2.0× less"), (2.0, 1.0, "2.0× more")]
)
def test_flicker_is_less_only_where_it_is(ours, theirs, said):
    comparison = Comparison("m", [], {LIFTED: {"near": ours}, ALONE: {"near": theirs}})
    assert sections._times(comparison, "near") == said


def test_pictures_of_another_render_are_not_shown(folder):
    run = open_run(folder)
    assert run.tasks
    for task in run.tasks:
        cameras = run.decoded / task.name / "transforms.json"
        document = json.loads(cameras.read_text())
        document["lift3d"]["render"] = "another"
        cameras.write_text(json.dumps(document))
    assert not open_run(folder).tasks
