"""Renders what the guarded networks run on: pages and lines of text, seeded; the result is committed as samples.npz.

    python tests/guard/render_samples.py

Pages lie as written or are turned by a quarter, half or three quarters; half of the lines stand upside down. Drawn with
the font that comes with Pillow, a little skewed, blurred and noisy. What Pillow draws changes between its versions, so
the drawings are kept and this is run by hand alone.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

COUNT = 16
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wizards", "judge"]


def text(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def worn(rng: np.random.Generator, image: Image.Image, angle: float, blur: float, noise: float) -> np.ndarray:
    """The picture skewed by up to `angle` degrees, blurred and noisy, as uint8 (h, w)."""
    turned = image.rotate(rng.uniform(-angle, angle), fillcolor=255, resample=Image.Resampling.BILINEAR)
    soft = turned.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, blur)))
    return np.clip(np.asarray(soft, np.float32) + rng.normal(0, noise, (image.height, image.width)), 0, 255).astype(
        np.uint8
    )


def page(rng: np.random.Generator, quarter: int) -> np.ndarray:
    image = Image.new("L", (224, 224), 255)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(int(rng.integers(9, 15)))
    for top in range(10, 210, int(rng.integers(14, 22))):
        draw.text((12, top), text(rng, 12)[: int(rng.integers(18, 34))], int(rng.integers(0, 90)), font)
    return worn(rng, image.rotate(-90 * quarter), 2.0, 0.8, 1.0)


def line(rng: np.random.Generator, is_turned: bool) -> np.ndarray:
    image = Image.new("L", (192, 48), 255)
    font = ImageFont.load_default(int(rng.integers(20, 30)))
    ImageDraw.Draw(image).text((6, int(rng.integers(6, 14))), text(rng, 6)[:14], int(rng.integers(0, 90)), font)
    return worn(rng, image.rotate(180) if is_turned else image, 1.5, 0.7, 1.0)


def main() -> None:
    rng = np.random.default_rng(20)
    quarters = np.arange(COUNT) % 4
    turned = np.arange(COUNT) % 2
    np.savez_compressed(
        Path(__file__).with_name("samples.npz"),
        pages=np.stack([page(rng, int(k)) for k in quarters]),
        page_quarters=quarters.astype(np.int64),
        lines=np.stack([line(rng, bool(k)) for k in turned]),
        line_turned=turned.astype(np.int64),
    )


if __name__ == "__main__":
    main()
