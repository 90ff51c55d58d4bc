"""Camera path files: exact round trip, three formats, and one clear line for everything that can be wrong."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from lift3d_cli.errors import ResourceError, SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene import paths

IDENTITY = np.eye(4).tolist()
POSE = {"w": 640, "h": 480, "fx": 700.0, "fy": 710.0, "cx": 320.0, "cy": 240.0, "c2w": IDENTITY}


def random_camera(rng: np.random.Generator) -> Camera:
    w2c = np.eye(4)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    w2c[:3, :3] = rotation * np.linalg.det(rotation)
    w2c[:3, 3] = rng.normal(size=3) * 100
    fx, fy = rng.uniform(100, 900, 2)
    return Camera(np.array([[fx, 0, 310.7], [0, fy, 244.1], [0, 0, 1]]), w2c, 640, 480)


def ours(**changes) -> dict:
    return {"format": "lift3d-path", "version": 1, "fps": 30, "poses": [dict(POSE), {**POSE, **changes}]}


def without(pose: dict, key: str) -> dict:
    return {k: v for k, v in pose.items() if k != key}


def test_round_trip_is_exact(tmp_path):
    rng = np.random.default_rng(0)
    cameras = [random_camera(rng) for _ in range(20)]
    names = [f"images/{i}.png" for i in range(20)]
    file = paths.write_path(tmp_path / "new" / "path.json", cameras, fps=29.97, names=names)
    read = paths.read_poses(file)
    assert read.names == tuple(names)
    assert read.fps == 29.97
    for a, b in zip(read.cameras, cameras, strict=True):
        assert (a.K == b.K).all()
        assert (a.width, a.height) == (b.width, b.height)
        assert np.abs(a.w2c - b.w2c).max() < 1e-12
    assert list(file.parent.iterdir()) == [file]  # no temporary file is left


def test_written_file_is_the_documented_format(tmp_path):
    camera = Camera(np.array([[700, 0, 320], [0, 710, 240], [0, 0, 1]]), np.eye(4), 640, 480)
    text = paths.write_path(tmp_path / "path.json", [camera], fps=24).read_text()
    assert json.loads(text) == {"format": "lift3d-path", "version": 1, "fps": 24.0, "poses": [POSE]}


def test_poses_without_names_are_numbered():
    assert paths.parse_poses(json.dumps(ours()), "x").names == ("0000", "0001")


def test_rounded_rotation_becomes_exactly_rigid():
    c, s = round(np.cos(0.3), 4), round(np.sin(0.3), 4)
    c2w = [[c, -s, 0, 5000], [s, c, 0, -3000], [0, 0, 1, 2], [0, 0, 0, 1]]
    camera = paths.parse_poses(json.dumps(ours(c2w=c2w)), "x").cameras[1]
    R = camera.w2c[:3, :3]
    assert np.abs(R @ R.T - np.eye(3)).max() < 1e-14
    assert np.allclose(camera.position, [5000, -3000, 2], atol=1e-9)


def test_nerfstudio_camera_path():
    # Stands at (1, 2, 3) and looks along -Z of the world with +Y up: OpenGL's identity rotation.
    c2w = [1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1]
    data = {
        "camera_type": "perspective",
        "render_width": 800,
        "render_height": 400,
        "camera_path": [{"camera_to_world": c2w, "fov": 90, "aspect": 1.5}],
        "fps": 12,
        "seconds": 1,
        "crop": None,
    }
    path = paths.parse_poses(json.dumps(data), "x")
    camera = path.cameras[0]
    assert path.fps == 12
    assert np.allclose(camera.K, [[200, 0, 400], [0, 200, 200], [0, 0, 1]])
    assert np.allclose(camera.position, [1, 2, 3])
    assert np.allclose(camera.forward, [0, 0, -1])
    uv, _ = camera.project(np.array([[1.0, 2.5, 2.0]]))  # half a unit above the axis: in the upper half
    assert np.allclose(uv, [[400, 100]])


def test_transforms_json_needs_no_photos(tmp_path):
    frame = {"file_path": "./images/a.jpg", "transform_matrix": IDENTITY}
    data = {"w": 640.0, "h": 480.0, "fl_x": 700, "cx": 300, "k1": 0.1, "frames": [frame, {**frame, "fl_x": 350}]}
    data["frames"][1]["file_path"] = "images/b.jpg"
    file = tmp_path / "transforms.json"
    file.write_text(json.dumps(data))
    path = paths.read_poses(file)
    assert path.names == ("images/a.jpg", "images/b.jpg")
    assert np.allclose(path.cameras[0].K, [[700, 0, 300], [0, 700, 240], [0, 0, 1]])
    assert path.cameras[1].K[0, 0] == 350
    assert np.allclose(path.cameras[0].forward, [0, 0, -1])


def test_blender_transforms_take_the_default_size():
    data = {"camera_angle_x": np.pi / 2, "frames": [{"file_path": "./train/r_0", "transform_matrix": IDENTITY}]}
    camera = paths.parse_poses(json.dumps(data), "x", default_size=(400, 300)).cameras[0]
    assert np.allclose(camera.K, [[200, 0, 200], [0, 200, 150], [0, 0, 1]])
    with pytest.raises(SceneError, match="pose 0: has no image size"):
        paths.parse_poses(json.dumps(data), "x")


def test_photo_names_that_lead_outside_are_cut_to_their_last_part():
    frames = [{"file_path": f"../../{n}.png", "transform_matrix": IDENTITY} for n in "ab"]
    data = {"w": 64, "h": 48, "fl_x": 70, "frames": frames}
    assert paths.parse_poses(json.dumps(data), "x").names == ("a.png", "b.png")
    data["frames"][1]["file_path"] = "/other/a.png"
    assert paths.parse_poses(json.dumps(data), "x").names == ("0000", "0001")


def test_standard_input_is_json_or_the_path_of_a_file(tmp_path):
    text = json.dumps(ours())
    file = tmp_path / "a path.json"
    file.write_text(text)
    assert len(paths.read_poses_stdin(text)) == 2
    assert len(paths.read_poses_stdin(f"{file}\n")) == 2
    assert len(paths.read_poses_stdin(f"\ufeff  {text}")) == 2


FLAT = np.eye(4).ravel().tolist()
SINGULAR = np.diag([1.0, 1, 0, 1]).tolist()
MIRRORED = np.diag([1.0, 1, -1, 1]).tolist()
NERF = {"render_width": 64, "render_height": 48, "camera_path": [{"camera_to_world": FLAT, "fov": 50}]}
RIGID = "the pose is not a rotation and a translation (its 3x3 part is singular, mirrored or sheared, determinant "
RELATIVE = ', needs a relative path without ".." in it, of names of 240 bytes at most'
KNOWN = (
    'is of no known format. hint: it needs "format": "lift3d-path" with "poses", "camera_path" (nerfstudio) or '
    '"frames" (transforms.json)'
)
GOLDEN_ERRORS = [
    (ours(c2w=SINGULAR), f"pose 1: {RIGID}0). hint: export the poses again"),
    (ours(c2w=MIRRORED), f"pose 1: {RIGID}-1). hint: export the poses again"),
    (ours(c2w=np.diag([2.0, 2, 1, 1]).tolist()), f"pose 1: {RIGID}4). hint: export the poses again"),
    (ours(c2w=np.full((4, 4), np.nan).tolist()), 'pose 1: "c2w" has a NaN or infinite number'),
    (ours(c2w=[[1, 0, 0, 0]]), 'pose 1: "c2w" has 4 numbers, needs a 4x4 matrix'),
    (ours(c2w=[[1, 0, 0], [0, 1, 0, 0, 0], [0] * 4, [0] * 4]), 'pose 1: "c2w" has 16 numbers, needs a 4x4 matrix'),
    (ours(c2w=[["a"] * 4] * 4), 'pose 1: "c2w" holds something that is not a number'),
    (ours(c2w=[]), 'pose 1: "c2w" is [], needs a 4x4 matrix'),
    (ours(c2w=None), 'pose 1: "c2w" is None, needs a 4x4 matrix'),
    (ours(c2w={"0": 1}), "pose 1: \"c2w\" is {'0': 1}, needs a 4x4 matrix"),
    (ours(c2w=[*IDENTITY[:3], [0, 0, 1, 0]]), 'pose 1: "c2w" has the last row [0, 0, 1, 0], needs [0, 0, 0, 1]'),
    (ours(w=0), 'pose 1: "w" is 0, needs a positive whole number of pixels'),
    (ours(w=-640), 'pose 1: "w" is -640, needs a positive whole number of pixels'),
    (ours(h=10.5), 'pose 1: "h" is 10.5, needs a positive whole number of pixels'),
    (ours(h=True), 'pose 1: "h" is True, needs a finite number'),
    (ours(w=10**6), 'pose 1: "w" is 1000000 pixels, the limit is 16384'),
    (ours(w=10**400), f'pose 1: "w" is {"1" + "0" * 36}..., needs a finite number'),
    (ours(fx=0), "pose 1: the focal length is 0, needs pixels above 0"),
    (ours(fx=float("nan")), 'pose 1: "fx" is nan, needs a finite number'),
    (ours(name="../up"), f"pose 1: \"name\" is '../up'{RELATIVE}"),
    (ours(name=3), f'pose 1: "name" is 3{RELATIVE}'),
    (ours(name="0000"), 'pose 1: has the name "0000" of pose 0'),
    ({**ours(), "poses": [without(POSE, "fx")]}, 'pose 0: lacks "fx"'),
    ({**ours(), "poses": [without(POSE, "c2w")]}, 'pose 0: lacks "c2w"'),
    ({**ours(), "poses": []}, '"poses" is empty. hint: a path needs at least one pose'),
    ({**ours(), "poses": {}}, 'needs a list "poses"'),
    ({**ours(), "poses": [3]}, "pose 0: is a JSON int, needs an object"),
    ({**ours(), "version": 2}, "has version 2, this lift3d reads 1. hint: upgrade lift3d"),
    ({**ours(), "fps": 0}, '"fps" is 0, needs a number above 0 and up to 1000'),
    ({**ours(), "format": "other"}, KNOWN),
    ([POSE], "holds a JSON list, a camera path is an object"),
    (
        {**NERF, "camera_type": "equirectangular"},
        "has camera_type 'equirectangular', only \"perspective\" can be rendered",
    ),
    ({**NERF, "camera_path": [{"camera_to_world": FLAT, "fov": 180}]}, None),
    (without(NERF, "render_width"), 'the file: lacks "render_width"'),
    (
        {"w": 64, "h": 48, "frames": [{"transform_matrix": IDENTITY}]},
        'pose 0: no focal length. hint: the file needs "fl_x" or "camera_angle_x"',
    ),
    (
        {**NERF, "crop": {"crop_scale": 1}},
        'has a "crop", which cannot be rendered. hint: delete it, and the whole scene is',
    ),
]


@pytest.mark.parametrize(("data", "message"), GOLDEN_ERRORS)
def test_bad_content_is_one_line_that_names_the_pose(data, message):
    with pytest.raises(SceneError) as caught:
        paths.parse_poses(json.dumps(data), "p.json")
    message = message or 'pose 0: "fov" is 180, needs degrees between 0 and 180'
    assert str(caught.value) == f"p.json: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"poses": [', "is cut off at line 1 column 12 (Expecting value). hint: copy or export it again"),
        ("[" * 100_000, "is not valid JSON (RecursionError)"),
        ('{"format": ' + "9" * 5000 + "}", "is not valid JSON (ValueError)"),
    ],
)
def test_broken_json_is_one_line(text, message):
    with pytest.raises(SceneError) as caught:
        paths.parse_poses(text, "p.json")
    assert str(caught.value) == f"p.json: {message}"


def test_unreadable_files_are_one_line(tmp_path):
    binary = tmp_path / "photo.jpg"
    binary.write_bytes(b"\xff\xd8\xff\xe0")
    for file, message in (
        (tmp_path / "none.json", "cannot be read (No such file or directory). hint: lift3d path SCENE orbit"),
        (tmp_path, "cannot be read (Is a directory)"),
        (binary, "is not text. hint: give a JSON file"),
    ):
        with pytest.raises(SceneError) as caught:
            paths.read_poses(file)
        assert str(caught.value) == f"{file}: {message}"
    with pytest.raises(ResourceError, match="cannot be written"):
        paths.write_path(binary / "path.json", paths.parse_poses(json.dumps(ours()), "x").cameras)


@pytest.mark.parametrize("text", ["", "  \n", "a.json\nb.json", "a\0b"])
def test_bad_standard_input_is_an_error(text):
    with pytest.raises(SceneError, match=r"^standard input: is "):
        paths.read_poses_stdin(text)


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    cameras = paths.parse_poses(json.dumps(ours()), "x").cameras
    file = paths.write_path(tmp_path / "path.json", cameras)
    before = file.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ResourceError, match="cannot be written \\(No space left on device\\)"):
        paths.write_path(file, cameras[:1])
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]


def test_names_that_could_not_be_read_back_are_not_written(tmp_path):
    cameras = paths.parse_poses(json.dumps(ours()), "x").cameras
    for names in (("a", "a"), ("a", "../b"), ("a", "")):
        with pytest.raises(SceneError, match=r"path\.json: pose 1: "):
            paths.write_path(tmp_path / "path.json", cameras, names=names)
    assert paths.read_poses(paths.write_path(tmp_path / "p.json", cameras, names=("a: b", "ü/c"))).names[0] == "a: b"


def test_poses_read_together_are_those_read_one_by_one():
    rng = np.random.default_rng(0)
    for document, key, name in ((ours(), "poses", "c2w"), (NERF, "camera_path", "camera_to_world")):
        poses = []
        for _ in range(50):
            c2w = random_camera(rng).c2w
            c2w[:3, :3] *= rng.uniform(0.5, 2)
            poses.append({**document[key][0], name: c2w.tolist()})
        flat = [{**pose, name: np.ravel(pose[name]).tolist()} for pose in poses]
        short = [{**pose, name: pose[name][:3]} for pose in poses]
        alone = [paths.parse_poses(json.dumps({**document, key: [pose]}), "x").cameras[0] for pose in poses]
        for some in (poses, flat, short, poses[:25] + flat[25:]):
            read = paths.parse_poses(json.dumps({**document, key: some}), "x").cameras
            assert [c.w2c.tobytes() + c.K.tobytes() for c in read] == [c.w2c.tobytes() + c.K.tobytes() for c in alone]


@pytest.mark.parametrize("value", [True, "1", None, 10**400, [1.0], float("nan")])
def test_matrix_of_other_things_than_numbers_is_refused_among_good_ones(value):
    bad = [[value, 0, 0, 0], *IDENTITY[1:]]
    with pytest.raises(SceneError, match=r'^x: pose 1: "c2w" '):
        paths.parse_poses(json.dumps(ours(c2w=bad)), "x")


def test_time_grows_with_the_number_of_poses_only():
    def seconds(count: int) -> float:
        text = json.dumps({**ours(), "poses": [without(POSE, "name")] * count})
        begun = time.process_time()
        assert len(set(paths.parse_poses(text, "x").names)) == count
        return time.process_time() - begun

    # The least of a few: a collection of the whole process's garbage may fall into any of them.
    few, many = (min(seconds(count) for _ in range(3)) for count in (2000, 8000))
    assert many < 10 * few + 0.1, "naming them was quadratic"
