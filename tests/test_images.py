"""Images taken from the user, and contact sheets; how files are read is tested in `test_generation`."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from pose2id.images import draw_sheet, read_image, take_image


def picture(seed, width=20, height=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_or_a_path_is_taken(tmp_path):
    image = Image.fromarray(picture(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png")
    assert turned.size == (30, 20)
    for given in (tmp_path / "turned.png", str(tmp_path / "turned.png"), Image.open(tmp_path / "turned.png")):
        assert take_image(given).tobytes() == turned.tobytes()
    assert take_image(image).tobytes() == image.tobytes()
    assert take_image(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(TypeError, match=r"^photos\[3\] must be a PIL image or a path, received ndarray$"):
        take_image(picture(0), "photos[3]")


def resized(pixels, size, resampling):
    return np.asarray(Image.fromarray(pixels).resize(size, resampling))


def test_a_sheet_has_every_picture_in_its_place():
    small, large = picture(1), picture(2, 50, 40)
    sheet = np.asarray(draw_sheet([[None, small], [large, Image.fromarray(small), large]], (16, 32)))
    assert sheet.shape == (64, 48, 3)
    lanczos = Image.Resampling.LANCZOS
    np.testing.assert_array_equal(sheet[:32, 16:32], resized(small, (16, 32), lanczos))
    np.testing.assert_array_equal(sheet[32:, :16], resized(large, (16, 32), lanczos))
    np.testing.assert_array_equal(sheet[32:, 16:32], resized(small, (16, 32), lanczos))
    np.testing.assert_array_equal(sheet[32:, 32:], resized(large, (16, 32), lanczos))
    assert (sheet[:32, :16] == 255).all()
    assert (sheet[:32, 32:] == 255).all()


def test_pictures_may_be_magnified_pixel_by_pixel():
    pixels = picture(3)
    sheet = np.asarray(draw_sheet([[pixels, pixels]], (60, 90), resampling="nearest"))
    np.testing.assert_array_equal(sheet, np.tile(pixels.repeat(3, axis=0).repeat(3, axis=1), (1, 2, 1)))


def test_labels_are_written_below_their_pictures():
    grey = np.full((64, 96, 3), 128, np.uint8)
    plain = np.asarray(draw_sheet([[grey, grey], [grey]], (96, 64), labels=[["", ""], [""]]))
    assert plain.shape == (2 * (64 + 64), 2 * 96, 3)
    sheet = np.asarray(draw_sheet([[grey, grey], [grey]], (96, 64), labels=[["", "a reason"], ["much to say " * 20]]))
    rows, columns = np.nonzero((sheet != plain).any(axis=2))
    first = rows < 128
    assert 0 < first.sum() < len(rows)
    assert rows[first].min() >= 64
    assert columns[first].min() >= 96
    assert rows[~first].min() >= 128 + 64
    assert columns[~first].max() < 96
    assert rows[~first].max() >= 128 + 64 + 50  # five lines


def test_a_label_on_pictures_narrower_than_a_letter():
    assert draw_sheet([[np.zeros((2, 2, 3), np.uint8)]], (4, 8), labels=[["ab"]]).width == 4


def test_a_sheet_without_a_place_is_told():
    for rows in ([], [[]], [[], []]):
        with pytest.raises(ValueError, match="rows must have at least one place, received"):
            draw_sheet(rows, (16, 32))
    with pytest.raises(ValueError, match="size must be an integer >= 1, received 0"):
        draw_sheet([[picture(0)]], (16, 0))
    with pytest.raises(ValueError, match=r"resampling must be one of 'nearest', .* received 'magic'"):
        draw_sheet([[picture(0)]], (16, 32), resampling="magic")
