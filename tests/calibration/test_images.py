import math

import numpy as np
import pytest
from PIL import Image

from tpu_deploy.calibration import InputSpec, Preprocessing, open_samples
from tpu_deploy.errors import BadInput


def spec(*shape: int | None, dtype=np.float32) -> dict[str, InputSpec]:
    return {"x": InputSpec("x", shape, np.dtype(dtype))}


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path, pixels


def only(path, inputs, preprocessing=None) -> np.ndarray:
    (feed,) = open_samples(path, inputs, preprocessing)
    return feed["x"]


def test_pixels_become_mean_free_scaled_planes(picture):
    path, pixels = picture
    mean, scale = (1.0, 2.0, 3.0), (0.5, 0.25, 0.125)
    expected = ((pixels - np.float32(mean)) * np.float32(scale)).transpose(2, 0, 1)[None]
    assert np.array_equal(only(path, spec(None, 3, 6, 8), Preprocessing(mean, scale)), expected)
    nhwc = only(path, spec(1, 6, 8, 3), Preprocessing(mean, scale, channel_order="nhwc"))
    assert np.array_equal(nhwc, expected.transpose(0, 2, 3, 1))


def test_mean_and_scale_are_in_the_order_of_the_pixel_format(picture):
    path, pixels = picture
    mean = (10.0, 20.0, 30.0)
    expected = (pixels[..., ::-1] - np.float32(mean)).transpose(2, 0, 1)[None]
    assert np.array_equal(only(path, spec(1, 3, 6, 8), Preprocessing(mean, pixel_format="bgr")), expected)


def test_a_model_with_one_channel_gets_gray_pixels(picture):
    path, pixels = picture
    gray = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    assert np.array_equal(only(path, spec(1, 1, 6, 8)), gray[None, None])


def test_one_image_a_list_and_a_folder_give_the_same(picture):
    path, _ = picture
    (path / "list.txt").write_text("a.png\n")
    arrays = [only(source, spec(1, 3, 6, 8)) for source in (path, path / "a.png", path / "list.txt")]
    assert np.array_equal(arrays[0], arrays[1])
    assert np.array_equal(arrays[0], arrays[2])


def test_images_are_resized_to_the_model_or_as_told_and_then_cropped_about_the_centre(picture):
    path, pixels = picture
    small = np.asarray(Image.fromarray(pixels).resize((4, 3), Image.Resampling.BILINEAR), np.float32)
    assert np.array_equal(only(path, spec(1, 3, 3, 4)), small.transpose(2, 0, 1)[None])
    assert only(path, spec(1, 3, None, None), Preprocessing(resize=(3, 4))).shape == (1, 3, 3, 4)
    large = np.asarray(Image.fromarray(pixels).resize((12, 10), Image.Resampling.BILINEAR), np.float32)
    cropped = only(path, spec(1, 3, 6, 8), Preprocessing(resize=(10, 12)))
    assert np.array_equal(cropped, large[2:8, 2:10].transpose(2, 0, 1)[None])


def test_keeping_the_aspect_centres_the_image_on_the_padding(picture):
    path, pixels = picture
    array = only(path, spec(1, 3, 8, 8), Preprocessing(mean=(5.0,), keep_aspect=True, pad=7))[0]
    assert np.array_equal(array[:, 1:7], (pixels.astype(np.float32) - 5).transpose(2, 0, 1))
    assert (array[:, [0, 7]] == 2).all()


def test_an_image_is_turned_as_its_camera_was_held(tmp_path):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    exif = image.getexif()
    exif[274] = 3
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(only(tmp_path, spec(1, 1, 4, 6))[0, 0], np.arange(24).reshape(4, 6)[::-1, ::-1])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_any_mode_are_read(tmp_path, mode):
    name = "a.tif" if mode in ("CMYK", "I;16") else "a.png"
    Image.new(mode, (8, 6)).save(tmp_path / name)
    assert only(tmp_path, spec(1, 3, 6, 8)).shape == (1, 3, 6, 8)


def test_pixels_feed_integer_inputs_only_as_they_are(picture):
    path, pixels = picture
    inputs = spec(1, 3, 6, 8, dtype=np.uint8)
    assert np.array_equal(only(path, inputs), pixels.transpose(2, 0, 1)[None])
    with pytest.raises(BadInput, match="float32, which does not convert safely to uint8"):
        only(path, inputs, Preprocessing(scale=(0.5,)))


@pytest.mark.parametrize(
    ("inputs", "preprocessing", "fault"),
    [
        (spec(1, 3, 6, 8), Preprocessing(pixel_format="gray"), "gives 1 channels"),
        (spec(1, 6, 8, 3), Preprocessing(), "channel order"),
        (spec(1, 3, None, 8), Preprocessing(), "resize"),
        (spec(1, 3, 6, 8), Preprocessing(resize=(4, 4)), "smaller than the input"),
        (spec(1, 3, 6, 8), Preprocessing(mean=(1.0, 2.0)), "1 or 3 numbers, not 2"),
        (spec(1, 3, 6, 8), Preprocessing(mean=(1.0, 2.0, math.nan)), "finite numbers, not 1.0, 2.0, nan"),
        (spec(1, 3, 6, 8), Preprocessing(scale=(1.0, 0.0, 1.0)), "a scale of 0"),
        (spec(1, 144), Preprocessing(), "4 dimensions"),
        ({**spec(1, 3, 6, 8), "y": InputSpec("y", (1,), np.dtype(np.float32))}, Preprocessing(), "x, y"),
    ],
)
def test_images_that_cannot_feed_the_model_are_bad_input(picture, inputs, preprocessing, fault):
    with pytest.raises(BadInput, match=fault):
        open_samples(picture[0], inputs, preprocessing)


@pytest.mark.parametrize("content", [b"", b"no image at all", "half"])
def test_an_unreadable_image_is_named(picture, content):
    path, _ = picture
    whole = (path / "a.png").read_bytes()
    (path / "b.png").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    samples = iter(open_samples(path, spec(1, 3, 6, 8)))
    next(samples)
    with pytest.raises(BadInput, match=r"b\.png: is not a readable image"):
        next(samples)
