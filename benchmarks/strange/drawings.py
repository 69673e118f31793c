"""Drawn pictures of other things than skin; each is the same for the same generator.

Drawn are things as they come into a bucket by mistake (documents, screens, charts), and things that are hard to
tell from skin by colour or smoothness (faces, textures, gradients).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dermbatch.phantoms.skin import cloud, grain

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator

SKIN = ((246, 214, 190), (232, 188, 160), (214, 162, 130), (184, 128, 98), (140, 92, 68), (96, 62, 46))
"""Colours of skin, from pale to dark."""


def colour(random: Random) -> tuple[int, int, int]:
    """Any colour."""
    red, green, blue = random.integers(0, 256, 3).tolist()
    return red, green, blue


def skin_colour(random: Random) -> tuple[int, int, int]:
    """A colour of skin."""
    red, green, blue = (int(np.clip(one + random.normal(0, 6), 0, 255)) for one in random.choice(SKIN))
    return red, green, blue


def document(random: Random) -> Image:
    """A page of paragraphs or a table; some yellowed, tilted, shaded as a photograph of paper is."""
    height, width = (1100, 850) if random.random() < 0.7 else (850, 1100)
    paper = (252, 252, 250) if random.random() < 0.6 else (244, 232, 200)
    page = np.full((height, width, 3), paper, np.uint8)
    ink = (30, 25, 20) if random.random() < 0.8 else (40, 50, 130)
    if random.random() < 0.3:
        _table(page, random, ink)
    else:
        _paragraphs(page, random, ink)
    if random.random() < 0.4:
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-12, 12), random.uniform(0.8, 1.1))
        ground = tuple(float(one) for one in random.integers(20, 160, 3))
        page = cv2.warpAffine(page, turn, (width, height), borderValue=ground)
    if random.random() < 0.4:
        page = grain(random, page * _shade(random, height, width), 2.0)
    return np.asarray(page, np.uint8)


def _words(random: Random, length: int) -> str:
    letters = "".join(map(chr, random.integers(97, 123, length)))
    return letters.replace("e", " ").replace("o", " ").replace("x", " ")


def _write(page: Image, text: str, at: tuple[int, int], size: float, ink: tuple[int, ...]) -> None:
    cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1 if size < 0.8 else 2, cv2.LINE_AA)


def _paragraphs(page: Image, random: Random, ink: tuple[int, ...]) -> None:
    height, width = page.shape[:2]
    step = int(random.integers(20, 34))
    _write(page, _words(random, 24).title(), (60, 70), 1.1, ink)
    for row in range(110, height - 60, step):
        if random.random() < 0.9:
            short = random.random() < 0.15
            _write(
                page,
                _words(random, (width - 120) // (step // 2) // (2 if short else 1)),
                (60, row),
                step / 44,
                ink,
            )


def _table(page: Image, random: Random, ink: tuple[int, ...]) -> None:
    height, width = page.shape[:2]
    rows, columns = int(random.integers(8, 24)), int(random.integers(3, 7))
    tall, wide = (height - 160) // rows, (width - 120) // columns
    for row in range(rows):
        for column in range(columns):
            at = 60 + column * wide, 100 + row * tall
            cv2.rectangle(page, at, (at[0] + wide, at[1] + tall), ink, 1)
            text = f"{random.uniform(0, 999):.1f}" if column else _words(random, 8)
            _write(page, text, (at[0] + 6, at[1] + tall - 8), 0.5, ink)


def _shade(random: Random, height: int, width: int) -> Floats:
    light = 0.8 + 0.12 * cloud(random, height, width, max(height, width) / 1.5)
    return np.clip(light, 0.35, 1.05)[..., None].astype(np.float32)


def screen(random: Random) -> Image:
    """Windows with text and bars on a desktop, light or dark."""
    height, width = (768, 1366) if random.random() < 0.6 else (900, 1440)
    dark = random.random() < 0.4
    picture = np.full((height, width, 3), colour(random), np.uint8)
    for _ in range(int(random.integers(1, 4))):
        left, top = int(random.integers(0, width // 2)), int(random.integers(0, height // 2))
        right, bottom = (
            int(random.integers(left + 300, width + 200)),
            int(random.integers(top + 200, height + 100)),
        )
        cv2.rectangle(picture, (left, top), (right, bottom), (36, 38, 44) if dark else (248, 248, 250), -1)
        cv2.rectangle(picture, (left, top), (right, top + 30), colour(random), -1)
        ink = (210, 214, 220) if dark else (40, 40, 46)
        for row in range(top + 60, min(bottom, height) - 10, 24):
            if random.random() < 0.8:
                _write(
                    picture,
                    _words(random, int(random.integers(4, (right - left) // 12))),
                    (left + 16, row),
                    0.5,
                    ink,
                )
        for number in range(int(random.integers(0, 7))):
            at = left + 40 + 40 * number
            cv2.rectangle(
                picture, (at, bottom - int(random.integers(30, 160))), (at + 24, bottom - 12), colour(random), -1
            )
    cv2.rectangle(picture, (0, height - 40), (width, height), (30, 30, 34) if dark else (225, 227, 232), -1)
    return picture


def chart(random: Random) -> Image:
    """Lines, bars, points, a histogram, shares or a map of heat, drawn by Matplotlib."""
    figure = Figure(figsize=(float(random.uniform(5, 9)), float(random.uniform(4, 6))), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    count, way = int(random.integers(5, 40)), int(random.integers(6))
    tones = [np.array(colour(random)) / 255 for _ in range(5)]
    if way == 0:
        for tone in tones[:3]:
            axes.plot(random.normal(0, 1, count).cumsum(), color=tone)
    elif way == 1:
        axes.bar(range(count), random.uniform(0, 1, count), color=tones[0])
    elif way == 2:
        axes.scatter(*random.normal(0, 1, (2, 10 * count)), color=tones[0], s=8)
    elif way == 3:
        axes.hist(random.normal(0, 1, 500), bins=count, color=tones[0])
    elif way == 4:
        axes.pie(random.uniform(0.2, 1, 5), colors=tones, labels=list("abcde"))
    else:
        axes.imshow(random.uniform(0, 1, (8, 12)), cmap="viridis")
    axes.set_title(_words(random, 18))
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def face(random: Random) -> Image:
    """Ellipses in the colours of skin before a blurred background."""
    height, width = 480, 400
    back = np.stack([cloud(random, height, width, 90) for _ in range(3)], axis=2) * 25
    picture = np.clip(back + np.array(colour(random)), 0, 255).astype(np.uint8)
    tone, hair = skin_colour(random), tuple(int(one) for one in random.integers(10, 120, 3))
    x, y = int(random.integers(160, 240)), int(random.integers(200, 280))
    wide, tall = int(random.integers(90, 150)), int(random.integers(130, 190))
    cv2.ellipse(picture, (x, y - tall // 4), (wide + 20, tall), 0, 180, 360, hair, -1, cv2.LINE_AA)
    cv2.ellipse(picture, (x, y), (wide, tall), 0, 0, 360, tone, -1, cv2.LINE_AA)
    for side in (-1, 1):
        eye = x + side * wide // 2, y - tall // 5
        cv2.ellipse(picture, eye, (wide // 6, wide // 10), 0, 0, 360, (245, 245, 245), -1, cv2.LINE_AA)
        cv2.circle(picture, eye, wide // 12, (60, 40, 30), -1, cv2.LINE_AA)
    lips = tuple(int(one * share) for one, share in zip(tone, (0.85, 0.6, 0.6), strict=True))
    cv2.ellipse(picture, (x, y + tall // 2), (wide // 3, tall // 14), 0, 0, 360, lips, -1, cv2.LINE_AA)
    return grain(random, np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.5), np.float32), 2.0)


def texture(random: Random, tone: tuple[int, int, int] | None = None) -> Image:
    """Fractal noise between two colours; around one colour where it is given."""
    height, width = 384, 512
    noise = sum(cloud(random, height, width, 128 / 2**octave) / 2**octave for octave in range(6))
    share = np.clip(0.5 + np.asarray(noise) / 4, 0, 1)[..., None]
    one = np.array(tone or colour(random))
    other = one * random.uniform(0.4, 0.8) if tone else np.array(colour(random))
    return grain(random, (one * share + other * (1 - share)).astype(np.float32), 1.5)


def skin_texture(random: Random) -> Image:
    """The same in the colour of skin."""
    return texture(random, skin_colour(random))


def plain(random: Random) -> Image:
    """One colour, or a gradient from one to another."""
    height, width = 384, 512
    one, other = np.array(colour(random)), np.array(colour(random))
    if random.random() < 0.5:
        other = one
    share = np.linspace(0, 1, width)[None, :, None] * np.ones((height, 1, 1))
    return np.clip(one * (1 - share) + other * share + 0.5, 0, 255).astype(np.uint8)


def noise(random: Random) -> Image:
    """Squares of random colours, 1 to 8 pixels wide."""
    cell = int(random.integers(1, 9))
    cells = random.integers(0, 256, (384 // cell, 512 // cell, 3), dtype=np.uint8)
    return np.ascontiguousarray(cells.repeat(cell, axis=0).repeat(cell, axis=1))
