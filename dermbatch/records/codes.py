"""The codes in which results are expressed: SNOMED CT's and DICOM's where they exist, else Dermbatch's own.

A code in Dermbatch's own scheme keeps its meaning for ever; a new meaning gets a new code.
"""

from __future__ import annotations

import hashlib
import unicodedata

from pydicom.sr.coding import Code

SCHEME = "99DERMBATCH"
NOT_ALONE = "Made by software for research and triage support; not for diagnosis on its own."
"""What everything that leaves the system says about itself."""

SKIN_LESION = Code("95324001", "SCT", "Skin lesion")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
SKIN = Code("39937001", "SCT", "Skin")
IMAGING = Code("363679005", "SCT", "Imaging procedure")
AREA = Code("42798000", "SCT", "Area")
PERIMETER = Code("131191004", "SCT", "Perimeter")
DIAMETER = Code("81827009", "SCT", "Diameter")
MAXIMUM = Code("56851009", "SCT", "Maximum")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
RESAMPLING = Code("113085", "DCM", "Spatial resampling")
PROCESSED_FROM = Code("121322", "DCM", "Source image for image processing operation")
FINDING = Code("121071", "DCM", "Finding")
COMMENT = Code("121106", "DCM", "Comment")
MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
MILLIMETRES = Code("mm", "UCUM", "mm")
SQUARE_MILLIMETRES = Code("mm2", "UCUM", "square millimeter")
PIXELS = Code("{pixels}", "UCUM", "pixels")
NO_UNIT = Code("1", "UCUM", "no units")


def own(value: str, meaning: str) -> Code:
    """A code in Dermbatch's own scheme."""
    return Code(value, SCHEME, meaning)


FERET = own("FERET", "Largest distance of two points of the outline (Feret)")
ASYMMETRY = own("ASYMMETRY", "Asymmetry: share not overlapping when folded")
BORDER_IRREGULARITY = own("BORDER", "Border irregularity: perimeter squared / (4 pi area)")
BORDER_ZONE = own("BORDER-ZONE", "Zone in which the lesion ends, by a border map")
MOST_PROBABLE = own("MOST-PROBABLE", "Most probable class of the model, not a diagnosis")
OUTCOME = own("SEG-OUTCOME", "Outcome of the segmentation")
NO_LESION = own("NO-LESION", "No lesion was segmented")
NOT_CLASSIFIED = own("NOT-CLASSIFIED", "Not classified: no dermoscopic image")
DIAGNOSIS = Code("439401001", "SCT", "Diagnosis")
CERTAINTY = own("CERTAINTY", "How sure the reader is")
NOT_SURE = own("NOT-SURE", "The reader is not sure")
FEATURE = own("FEATURE", "Dermoscopic feature that the reader has seen")
QUALITY_FLAG = own("QUALITY", "Quality flag")
QUALITY = {
    "no_lesion": own("Q-NO-LESION", "Nothing was segmented"),
    "touches_frame": own("Q-FRAME", "The lesion reaches the edge of the image"),
    "several_lesions": own("Q-SEVERAL-ONE", "Several lesions were found; one is measured"),
    "low_confidence": own("Q-CONFIDENCE", "Low confidence of a model"),
    "heavily_occluded": own("Q-OCCLUDED", "Heavily occluded by hair, ruler or ink"),
    "not_dermoscopic": own("Q-NOT-DERMOSC", "No dermoscopic image, so no class is given"),
    "burned_in_text": own("Q-TEXT", "There may be text in the picture"),
}

_MELANOMA = ("MEL", Code("93655004", "SCT", "Malignant melanoma of skin"))
_NEVUS = ("NV", Code("400096001", "SCT", "Melanocytic nevus"))
_CLASSES: dict[str, tuple[str, Code]] = {
    "melanoma": _MELANOMA,
    "mel": _MELANOMA,
    "nevus": _NEVUS,
    "nv": _NEVUS,
    "seborrheic_keratosis": ("SK", Code("25499005", "SCT", "Seborrheic keratosis")),
    "bcc": ("BCC", Code("254701007", "SCT", "Basal cell carcinoma of skin")),
    "akiec": ("AKIEC", own("C-AKIEC", "Actinic keratosis or intraepithelial carcinoma")),
    "bkl": ("BKL", own("C-BKL", "Benign keratosis-like lesion")),
    "df": ("DF", own("C-DF", "Dermatofibroma")),
    "vasc": ("VASC", own("C-VASC", "Vascular lesion")),
}
"""What a model's labels mean: a short name, and the finding."""

_LONGEST_MEANING = 64  # of the VR LO


def finding(label: str) -> Code:
    """What a model's class stands for; one of Dermbatch's own codes if the label is not known here."""
    return _class(label)[1]


def feature(term: str) -> Code:
    """A dermoscopic feature; the code depends on the term alone."""
    digest = hashlib.sha256(term.encode()).hexdigest()[:10].upper()
    return own(f"F-{digest}", _meaning(term.replace("_", " "), "feature"))


def _meaning(text: str, otherwise: str) -> str:
    """Words as a code's meaning (PS3.5, 6.2: LO): without the separator of values and control characters."""
    plain = "".join(" " if sign == "\\" or unicodedata.category(sign) == "Cc" else sign for sign in text)
    return (plain.strip() or otherwise)[:_LONGEST_MEANING]


def probability(label: str) -> Code:
    """The measurement code for a class's probability."""
    short, meant = _class(label)
    return own(f"P-{short}", f"Probability of {meant.meaning}"[:_LONGEST_MEANING])


def _class(label: str) -> tuple[str, Code]:
    known = _CLASSES.get(label.lower().replace(" ", "_"))
    if known is not None:
        return known
    digest = hashlib.sha256(label.encode()).hexdigest()[:10].upper()
    return digest, own(f"C-{digest}", _meaning(label, "class"))
