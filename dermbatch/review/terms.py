"""Dermoscopic features that readers may name, in ISIC's terms."""

from __future__ import annotations

FEATURES = {
    "pigment_network": "Pigment network",
    "negative_network": "Negative network",
    "streaks": "Streaks",
    "milia_like_cyst": "Milia-like cysts",
    "globules": "Globules and dots",
    "blue_white_veil": "Blue-white veil",
    "regression_structures": "Regression structures",
    "structureless_area": "Structureless area",
    "vascular_structures": "Vascular structures",
    "shiny_white_structures": "Shiny white structures",
    "comedo_like_opening": "Comedo-like openings",
    "ulceration": "Ulceration",
}
"""Their names by code. The first five are the attributes of ISIC 2018's second task (Codella 2019), the
others terms of the third consensus on standardized terms (Kittler et al. 2016)."""

DIAGNOSES = ("melanoma", "nevus", "seborrheic_keratosis", "bcc", "akiec", "bkl", "df", "vasc")
"""Labels that are offered besides the model's own: those of ISIC 2017 and HAM10000."""
