"""A page of text, as from a scanner or a screenshot: not a picture of skin."""

import cv2
import numpy as np


def page(height=1100, width=850):
    """Dark lines of letters on white paper, uint8 [height, width, 3]."""
    picture = np.full((height, width, 3), 250, np.uint8)
    letters = np.random.default_rng(0).integers(97, 123, (height // 26, width // 13))
    for row, line in enumerate(letters[2:-2], 2):
        words = "".join(map(chr, line[: -8 if row % 5 else -width // 30])).replace("e", " ").replace("o", " ")
        cv2.putText(picture, words, (50, 26 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (30, 25, 20), 1, cv2.LINE_AA)
    return picture
