"""Read, undistort and resize photos. Pixels only: which camera belongs to a photo is up to the scene readers."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.machine.reading import read_file
from lift3d_cli.scene.distortion import undistortion_map
from lift3d_cli.scene.scene import Photo, View

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
# Pictures that people have, and that must be converted; what is said of them.
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".exr", ".hdr", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf")
_RAW = "camera raw, or TIFF with float or 16-bit colours"
_UNREAD_MAGIC = (
    (4, b"ftypavif", "AVIF"), (4, b"ftyphei", "HEIC"), (4, b"ftyphev", "HEIC"), (4, b"ftypmif1", "HEIC"),
    (4, b"ftyp", "a video"), (0, b"v/1\x01", "EXR"), (0, b"#?", "Radiance HDR"), (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"), (0, b"II", _RAW), (0, b"MM", _RAW), (0, b"8BPS", "a Photoshop file"),
)  # fmt: skip
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # MPO, of some phones, is read as JPEG
# A pixel takes up to 41 bytes until it is encoded.
_MAX_PIXELS = 120_000_000
_EXIF_ORIENTATION = 0x0112
# EXIF orientations that turn the photo by 90 degrees, which swaps width and height.
_QUARTER_TURNS = (5, 6, 7, 8)


def photo_size(path: Path, width: float | None = None, height: float | None = None) -> tuple[int, int]:
    """Read a photo's (width, height) from its header, in the orientation of its camera's calibration.

    That is the stored orientation, as in COLMAP; an EXIF rotation is ignored. The exception is an EXIF rotation by 90
    degrees where the scene's `width` x `height` has the turned shape and not the stored one: then the photo counts as
    turned, and `read_photo` turns the pixels.

    Raises:
        SceneError: if it is not an image.
    """
    with open_picture(path) as image:
        size, turned = image.size, _is_quarter_turned(image)
        _check_range(image, path)
    if turned and width and height and (width > height) != (size[0] > size[1]):
        return size[1], size[0]
    return size


def quarter_turn(path: Path, values: np.ndarray) -> np.ndarray | None:
    """Turn an array [h, w, ...] by the quarter that a photo's EXIF says; None if it says none.

    For what belongs to a photo that is turned when it is read, and is stored like its file.

    Raises:
        SceneError: if `path` is not an image.
    """
    with open_picture(path) as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION) if _is_quarter_turned(image) else None
    swapped = np.swapaxes(values, 0, 1)
    turned = {5: swapped, 6: swapped[:, ::-1], 7: swapped[::-1, ::-1], 8: swapped[::-1]}
    return turned.get(orientation)


def read_photo(view: View) -> Photo:
    """Read a view's photo as 8-bit sRGB, put transparent pixels on white, and undo the lens distortion.

    Raises:
        SceneError: if the photo or its mask cannot be read, or the photo's size is not its camera's.
    """
    size = (view.camera.width, view.camera.height)
    image, opaque = _read_pixels(view.image_path, size)
    if image.shape[:2] != size[::-1]:
        raise SceneError(
            f"{view.image_path}: is {image.shape[1]}x{image.shape[0]}, its camera is for {size[0]}x{size[1]}. "
            "hint: the photo changed after the scene was loaded; run the command again"
        )
    valid = np.ones(opaque.shape, dtype=bool) if view.mask_path is None else _read_mask(view.mask_path, size)
    if view.distortion is None:
        return Photo(image, valid, opaque)
    import cv2

    source_x, source_y, has_source = undistortion_map(view.camera, view.distortion)
    # BORDER_REPLICATE: the outer half of an edge pixel has the colour of that pixel.
    image = cv2.remap(image, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    valid = _remap_mask(valid, source_x, source_y) & has_source
    opaque = _remap_mask(opaque, source_x, source_y)
    return Photo(image, valid, opaque)


def resize_photo(photo: Photo, width: int, height: int) -> Photo:
    """Resize to `width` x `height` pixels: each pixel is the mean of the area it covers, or bicubic when enlarging.

    `valid` and `opaque` are True only where all of the pixels used are.
    """
    import cv2

    old_height, old_width = photo.valid.shape
    if (width, height) == (old_width, old_height):
        return photo
    if width < 1 or height < 1:
        raise SceneError(f"a photo cannot be resized to {width}x{height}. hint: sizes are in pixels, at least 1")
    shrinks = width <= old_width and height <= old_height
    image = cv2.resize(photo.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)

    def resize_mask(mask: np.ndarray) -> np.ndarray:
        if mask.all():
            return np.ones((height, width), dtype=bool)
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        part = cv2.resize(mask.astype(np.float32), (width, height), interpolation=way)
        return part > 1 - 1e-4  # float32 sums of ones end within 1e-6 of 1

    return Photo(image, resize_mask(photo.valid), resize_mask(photo.opaque))


def _read_pixels(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Decode to image [H, W, 3] uint8 and opaque [H, W]; `size` decides whether an EXIF quarter turn is applied."""
    from PIL import ImageOps

    with open_picture(path) as photo:
        photo.load()  # a truncated file fails here, not silently half-way down
        if photo.size != size and photo.size == size[::-1] and _is_quarter_turned(photo):
            photo = ImageOps.exif_transpose(photo)
        _check_range(photo, path)
        return _to_rgb(photo)


def _is_quarter_turned(image) -> bool:
    # Reading EXIF from a PNG decodes all of it, and cameras do not write PNG.
    return image.format != "PNG" and image.getexif().get(_EXIF_ORIENTATION) in _QUARTER_TURNS


def _to_rgb(photo) -> tuple[np.ndarray, np.ndarray]:
    """Convert a PIL image to [H, W, 3] uint8 on white, and opaque [H, W]: at least half of the pixel is covered."""
    if photo.mode.startswith("I"):  # grey of more than 8 bits
        gray = np.round(np.asarray(photo, dtype=np.float64) / 257.0).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2), np.ones(gray.shape, dtype=bool)
    if "A" in photo.mode or "a" in photo.mode or "transparency" in photo.info:
        rgba = np.asarray(photo.convert("RGBA"))
        alpha = rgba[..., 3:].astype(np.float32) / 255.0
        image = np.round(rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
        return image, rgba[..., 3] >= 128
    image = np.array(photo.convert("RGB"))
    return image, np.ones(image.shape[:2], dtype=bool)


def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask as [H, W] bool at the photo's `size`, True where it is not 0; its file may have another size."""
    from PIL import Image

    with open_picture(path) as file:
        file.load()
        mask = file.convert("RGB") if file.mode == "P" else file
        if mask.size != size:
            mask = mask.resize(size, Image.Resampling.NEAREST)
        values = np.asarray(mask)
    if values.ndim == 3:  # the colour decides, alpha does not; LA and RGBA have alpha last
        values = values[..., : 1 if values.shape[2] < 3 else 3].any(axis=2)
    return values != 0


def _remap_mask(mask: np.ndarray, source_x: np.ndarray, source_y: np.ndarray) -> np.ndarray:
    """Undistort [H, W] bool: True where all interpolated pixels are True."""
    import cv2

    if mask.all():
        return np.ones(source_x.shape, dtype=bool)
    out = cv2.remap(mask.astype(np.uint8) * 255, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return out == 255


@contextmanager
def open_picture(path: Path) -> Iterator:
    """Open a picture with PIL; whatever is wrong with the file is a `SceneError` that says it.

    Raises:
        SceneError: also if it has more pixels than fit into memory.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # our limit says what to do
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        # No others: PIL would run Ghostscript for an EPS file, whatever it is called.
        with Image.open(path, formats=_FORMATS) as image:
            _check_pixels(image, path)
            yield image
    except (SceneError, MemoryError):
        raise
    except Exception as e:  # five decoders, and hostile files
        raise _unreadable(path, e) from e


def _check_pixels(image, path: Path) -> None:
    """Refuse a picture with more pixels than fit into memory, before they are decoded.

    Raises:
        SceneError: if it has.
    """
    if image.width * image.height > _MAX_PIXELS:
        raise SceneError(
            f"{path}: is {image.width}x{image.height} pixels, too large (the limit is {_MAX_PIXELS // 10**6} "
            "megapixels). hint: make all photos smaller; their poses stay right"
        )


def _check_range(image, path: Path) -> None:
    """Refuse pixels whose values have no known range: floats, and whole numbers beyond 16 bits."""
    low, high = (0, 0) if image.mode != "I" else image.getextrema()
    if image.mode == "F" or low < 0 or high > 65535:
        raise SceneError(
            f"{path}: has {'float' if image.mode == 'F' else '32-bit'} pixels, which have no known range. "
            "hint: save it with 8 or 16 bits per channel"
        )


def _unreadable(path: Path, cause: Exception) -> SceneError:
    """Say what is wrong with a file that is no photo; "cut off" only of one that lacks its end."""
    try:
        data = read_file(path, 2**31)
    except OSError as e:
        return SceneError(f"{path}: cannot be read as a photo ({e.strerror or e})")
    if not data:
        return SceneError(f"{path}: is empty. hint: copy it again")
    ends = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND", b"RIFF": b""}
    end = next((end for start, end in ends.items() if data.startswith(start)), None)
    if "truncated" in str(cause) or (end and end not in data[-4096:]):
        return SceneError(f"{path}: is cut off. hint: copy it again")
    for offset, magic, kind in _UNREAD_MAGIC if end is None else ():
        if data.startswith(magic, offset):
            return SceneError(f"{path}: is {kind}, which is not supported. hint: convert it to JPEG or PNG")
    if data.startswith(b"version https://git-lfs"):
        return SceneError(f"{path}: is a pointer of Git LFS. hint: git lfs pull")
    what = "is no picture" if end is None else f"is damaged ({cause})"
    return SceneError(f"{path}: {what}. hint: copy it again")
