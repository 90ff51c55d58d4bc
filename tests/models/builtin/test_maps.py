"""Maps of the user's own: read from every format, put where they lie in the photo, refused if they do not fit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lift3d_cli import FeatureMap, Model, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.fingerprint import fingerprint
from lift3d_cli.models.registry import find_model

PHOTO = "images/0001.jpg"
MAP = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))  # of a photo of 25 to 32 x 17 to 24, stride 8


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with `MAP` for `PHOTO`."""
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "0001.npy", MAP.numpy())
    return tmp_path / "maps"


def _load(folder: Path, query: str = "stride=8") -> Model:
    return find_model(f"maps:{folder}?{query}").load()


def _photo(width: int, height: int) -> torch.Tensor:
    return torch.zeros(3, height, width)


def _encode(folder: Path, query: str = "stride=8", size: tuple[int, int] = (30, 20)) -> FeatureMap:
    return _load(folder, query).checked_encode(_photo(*size), PHOTO)


def _error(make: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as error:
        make()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    return str(error.value)


WRITERS = {
    "npy": lambda path: np.save(path, MAP.numpy()),
    "npy of other byte order": lambda path: np.save(path, MAP.numpy().astype(">f8")),
    "npy with a batch axis": lambda path: np.save(path, MAP[None].numpy()),
    "pt": lambda path: torch.save(MAP, path),
    "pt of a parameter": lambda path: torch.save(torch.nn.Parameter(MAP), path),
    "pt with one tensor": lambda path: torch.save({"x": MAP, "size": (4, 3)}, path),
    "safetensors": lambda path: save_file({"anything": MAP}, path),
    "safetensors with others": lambda path: save_file({"features": MAP, "cls": torch.zeros(5)}, path),
    "safetensors with data": lambda path: save_file({"data": MAP, "cls": torch.zeros(5)}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_features(tmp_path, name):
    WRITERS[name](tmp_path / f"0001.{name.split()[0]}")
    assert torch.equal(_encode(tmp_path).data, MAP)


def test_channels_last_and_half_precision_give_the_same_features(tmp_path):
    torch.save(MAP.permute(1, 2, 0).bfloat16(), tmp_path / "0001.pt")
    assert torch.equal(_encode(tmp_path, "stride=8&layout=hwc").data, MAP.bfloat16().float())


def test_spec_has_the_channels_of_the_first_file_and_the_stride_asked_for(folder):
    spec = _load(folder).spec
    assert (spec.channels, spec.stride, spec.tasks) == (5, 8, ("features", "segment"))


@pytest.mark.parametrize("file", ["0001.npy", "images/0001.npy"])
def test_file_is_found_by_stem_and_by_the_photos_path(tmp_path, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    np.save(tmp_path / file, MAP.numpy())
    assert torch.equal(_encode(tmp_path).data, MAP)


def test_stem_keeps_its_own_dots(tmp_path):
    np.save(tmp_path / "0001.left.npy", MAP.numpy())
    assert torch.equal(_load(tmp_path).checked_encode(_photo(32, 24), "0001.left.png").data, MAP)


@pytest.mark.parametrize(
    ("fit", "size"), [("pad", (30, 20)), ("pad", (32, 24)), ("stretch", (30, 22)), ("stretch", (33, 23))]
)
def test_a_bright_cell_lights_the_pixels_that_it_was_made_from(tmp_path, fit, size):
    data = np.zeros((1, 3, 4), np.float32)
    data[0, 1, 2] = 1
    np.save(tmp_path / "0001.npy", data)
    pixels = _encode(tmp_path, f"stride=8&fit={fit}", size).at_pixels(*size)[0]
    cell = (8, 8) if fit == "pad" else (size[0] / 4, size[1] / 3)  # pixels wide and high
    u, v = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    row = pixels[round(1.5 * cell[1])]
    brightest = (row == row.amax()).nonzero()[:, 0] + 0.5
    assert abs(brightest.mean().item() - 2.5 * cell[0]) <= 0.5
    # Half as bright at the edge to the next cell.
    half = torch.from_numpy(np.interp([2 * cell[0]], u.numpy(), row.numpy() / row.max().item()))
    torch.testing.assert_close(half, torch.tensor([0.5], dtype=half.dtype), atol=0.08, rtol=0)
    assert abs(v[pixels.sum(1).argmax()].item() - 1.5 * cell[1]) <= 0.5


@pytest.mark.parametrize("size", [(33, 25), (39, 24), (32, 31)], ids=str)
def test_cells_that_the_network_left_out_at_the_edge_are_the_last_ones_again(folder, size):
    features = _encode(folder, size=size)
    assert features.grid.width == -(-size[0] // 8)
    rows = torch.arange(features.grid.height).clamp(max=2)
    columns = torch.arange(features.grid.width).clamp(max=3)
    assert torch.equal(features.data, MAP[:, rows][:, :, columns])


@pytest.mark.parametrize("size", [(24, 20), (41, 20), (30, 16), (30, 33), (240, 180)], ids=str)
def test_a_map_of_another_size_is_refused_with_both_sizes(folder, size):
    line = _error(lambda: _encode(folder, size=size))
    assert f"{folder / '0001.npy'} is 4x3 cells" in line
    assert f"{size[0]}x{size[1]} pixels, has {-(-size[0] // 8)}x{-(-size[1] // 8)} cells of 8" in line
    assert "fit=stretch" in line.split("hint:")[1]
    assert "--max-size" in line.split("hint:")[1]


def test_stretched_cells_cover_the_photo_exactly(folder):
    grid = _encode(folder, "stride=8&fit=stretch", (33, 22)).grid
    assert (grid.width * 1.0, grid.height * 1.0) == (grid.scale[0] * 33, grid.scale[1] * 22)
    assert grid.offset == (0, 0)


@pytest.mark.parametrize("size", [(39, 24), (32, 15), (27, 24)], ids=str)
def test_a_stretched_map_of_one_cell_more_or_less_is_refused(folder, size):
    line = _error(lambda: _encode(folder, "stride=8&fit=stretch", size))
    cells = [round(pixels / 8) for pixels in size]
    assert f"is 4x3 cells; the photo, {size[0]}x{size[1]} pixels, has {cells[0]}x{cells[1]} cells" in line
    assert f"resize photos to {cells[0] * 8}x{cells[1] * 8}" in line.split("hint:")[1]


def test_channels_last_without_saying_so_is_told(tmp_path):
    np.save(tmp_path / "0001.npy", MAP.permute(1, 2, 0).numpy())
    assert "layout=hwc" in _error(lambda: _encode(tmp_path))


def test_only_photos_of_the_scene_can_be_encoded(folder):
    assert "scene's photos only" in _error(lambda: _load(folder).encode(_photo(32, 24)))


def test_a_photo_without_a_map_is_named_with_the_files_looked_for(folder):
    line = _error(lambda: _load(folder).encode_photo(_photo(32, 24), "images/0002.jpg"))
    for part in ("photo images/0002.jpg", "0002 and images/0002 ", ".npy, .pt, .safetensors", str(folder)):
        assert part in line


@pytest.mark.parametrize("other", ["0001.pt", "images/0001.npy"])
def test_two_maps_of_one_photo_are_an_error_that_names_both(folder, other):
    (folder / other).parent.mkdir(exist_ok=True)
    (folder / other).write_bytes(b"")
    line = _error(lambda: _encode(folder))
    assert str(folder / "0001.npy") in line
    assert str(folder / other) in line


def test_one_map_is_not_given_to_two_photos(folder):
    model = _load(folder)
    model.encode_photo(_photo(32, 24), "left/0001.jpg")
    model.encode_photo(_photo(32, 24), "left/0001.jpg")
    line = _error(lambda: model.encode_photo(_photo(32, 24), "right/0001.jpg"))
    assert "left/0001.jpg and right/0001.jpg" in line


def test_a_map_with_other_channels_than_the_first_is_refused(folder):
    np.save(folder / "0002.npy", MAP[:3].numpy())
    line = _error(lambda: _load(folder).encode_photo(_photo(32, 24), "0002.jpg"))
    assert "0002.npy has 3 channels" in line
    assert "5" in line


@pytest.mark.parametrize(
    ("ref", "part"),
    [
        ("maps", "needs a folder"),
        ("maps:nowhere?stride=8", "there is no folder nowhere"),
        ("maps:{}", "stride=14"),
        ("maps:{}?stride=0", "stride is '0'"),
        ("maps:{}?stride=7.5", "stride is '7.5'"),
        ("maps:{}?stride=8&fit=crop", "fit=pad or stretch"),
        ("maps:{}?stride=8&layout=nhwc", "layout=chw or hwc"),
        ("maps:{}/empty?stride=8", "has no maps"),
    ],
)
def test_wrong_settings_are_one_line_with_a_hint(folder, ref, part):
    (folder / "empty").mkdir()
    line = _error(lambda: find_model(ref.format(folder)).load())
    assert part in line
    assert "hint:" in line


class Hostile:
    """Its pickle makes a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("ran-code"),)


def _archive(path: Path) -> None:
    with path.open("wb") as file:  # np.savez would add its own suffix
        np.savez(file, MAP.numpy())


BAD = {
    "garbage.npy": lambda path: path.write_bytes(b"hello"),
    "garbage.pt": lambda path: path.write_bytes(b"hello"),
    "garbage.safetensors": lambda path: path.write_bytes(b"hello"),
    "objects.npy": lambda path: np.save(path, np.array([Hostile()], dtype=object), allow_pickle=True),
    "archive.npy": _archive,
    "words.npy": lambda path: np.save(path, np.array(["1", "2"])),
    "code.pt": lambda path: path.write_bytes(pickle.dumps(Hostile(), protocol=2)),
    "zipped code.pt": lambda path: torch.save({"x": Hostile()}, path),
    "list.pt": lambda path: torch.save([MAP], path),
    "two.pt": lambda path: torch.save({"a": MAP, "b": MAP}, path),
    "two.safetensors": lambda path: save_file({"features": MAP, "data": MAP + 1}, path),
    "sparse vector.pt": lambda path: torch.save(MAP[0, 0].to_sparse(), path),
    "tokens.npy": lambda path: np.save(path, np.zeros((12, 5))),
    "batch.npy": lambda path: np.save(path, np.zeros((2, 5, 3, 4))),
    "nothing.npy": lambda path: np.save(path, np.zeros((5, 0, 4))),
    "nan.npy": lambda path: np.save(path, np.full((5, 3, 4), np.nan)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_that_names_it_and_runs_no_code(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maps").mkdir()
    path = tmp_path / "maps" / name
    BAD[name](path)
    assert str(path) in _error(lambda: _load(tmp_path / "maps"))
    assert not (tmp_path / "ran-code").exists()


def _fingerprint(folder: Path, query: str = "stride=8") -> dict[str, object]:
    ref = find_model(f"maps:{folder}?{query}")
    return fingerprint(ref.load(), ref)


def test_fingerprint_is_the_same_while_names_and_contents_are(folder):
    first = _fingerprint(folder)
    os.utime(folder / "0001.npy", (1, 1))
    (folder / "notes.txt").write_text("made with a ViT")
    (folder / ".lift3d").mkdir()  # the cache, where maps lie beside the photos
    np.save(folder / ".lift3d" / "0000.npy", MAP.numpy())
    assert _fingerprint(folder) == first


CHANGES = {
    "last byte of a large file": lambda f: np.save(
        f / "0002.npy", np.r_[np.zeros(2**19 - 1), 1].reshape(1, 2**9, 2**10)
    ),
    "another file": lambda f: np.save(f / "0003.npy", MAP.numpy()),
    "another name": lambda f: (f / "0002.npy").rename(f / "0004.npy"),
    "a file gone": lambda f: (f / "0002.npy").unlink(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_maps_have_another_fingerprint(folder, name):
    np.save(folder / "0002.npy", np.zeros((1, 2**9, 2**10)))
    first = _fingerprint(folder)
    CHANGES[name](folder)
    assert _fingerprint(folder) != first


def test_other_settings_have_another_fingerprint(folder):
    prints = [_fingerprint(folder, q) for q in ("stride=8", "stride=4", "stride=8&fit=stretch", "stride=8&layout=hwc")]
    assert all(a != b for i, a in enumerate(prints) for b in prints[:i])


@torch.inference_mode()
def test_maps_are_shown_and_segmented_like_the_features_of_a_network(tmp_path):
    data = np.zeros((5, 4, 6), np.float32)
    data[0, :, :3] = 1
    data[1, :, 3:] = 1
    np.save(tmp_path / "0001.npy", data)
    model = _load(tmp_path)
    image = _photo(48, 32)
    features, view = model.checked_encode(image, PHOTO), RenderedView(image, torch.ones(32, 48))
    context = DecodeContext("segment", DecodeOptions(clusters=2), [features], None)
    classes = model.decoder(context)(features, view).scores.argmax(0)
    assert torch.equal(classes, (classes[0, 0] != (torch.arange(48) >= 24)).long().expand(32, -1))
    colors = model.decode(features, view, "features")
    assert colors.shape == image.shape
    assert (colors[:, :, 0] - colors[:, :, -1]).abs().max() > 0.5
