"""The attributes of a de-identified file: what a picture of skin needs, and nothing that could be free text.

PS3.15 table E.1-1 lists what must go. Here it is the other way round: what is not listed goes, so that private,
new, retired and misused attributes go too. Every text that stays comes from a closed set of words.
"""

from __future__ import annotations

import re

_LUT = "PaletteColorLookupTable"
_COLOURS = ("Red", "Green", "Blue")

NUMBERS = frozenset(
    {
        "SamplesPerPixel",
        "PlanarConfiguration",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "PixelPaddingValue",
        *(f"{colour}{_LUT}Descriptor" for colour in _COLOURS),
    }
)
"""Binary numbers of the Image Pixel module (PS3.3, C.7.6.3)."""

DECIMALS = frozenset(
    {
        "NumberOfFrames",
        "InstanceNumber",
        "SeriesNumber",
        "FrameTime",
        "PixelAspectRatio",
        "PixelSpacing",
        "NominalScannedPixelSpacing",
        "ImagerPixelSpacing",
        "LossyImageCompressionRatio",
        "WindowCenter",
        "WindowWidth",
        "RescaleSlope",
        "RescaleIntercept",
        "ReferencedFrameNumber",
    }
)
"""Numbers as text: those that parse as such, and are too short for an identifier."""
DECIMAL = re.compile(r"[+-]?(\d{1,7})(\.\d{1,12})?([eE][+-]?\d{1,2})?")

BYTES = frozenset({f"{colour}{_LUT}Data" for colour in _COLOURS})
"""Colours of a palette, where the picture has one. Pixel Data and ICC Profile are handled separately."""

# fmt: off
_SKIN = frozenset({
    "SKIN", "HEAD", "NECK", "HEAD/NECK", "HEADNECK", "FACE", "SCALP", "EAR", "NOSE", "LIP", "EYELID", "CHEEK",
    "FOREHEAD", "CHIN", "TORSO", "TRUNK", "CHEST", "BREAST", "ABDOMEN", "BACK", "ANTERIOR TORSO",
    "POSTERIOR TORSO", "LATERAL TORSO", "SHOULDER", "ARM", "UPARM", "FOREARM", "ELBOW", "WRIST", "HAND",
    "FINGER", "THUMB", "PALM", "NAIL", "AXILLA", "UPPER EXTREMITY", "LOWER EXTREMITY", "EXTREMITY", "PELVIS",
    "HIP", "BUTTOCK", "GROIN", "THIGH", "LEG", "KNEE", "CALF", "ANKLE", "FOOT", "TOE", "SOLE", "PALMS/SOLES",
    "ORAL/GENITAL",
})
# fmt: on
_YES_NO = frozenset({"YES", "NO"})
_SIDES = frozenset({"R", "L", "B", "U"})
_COMPRESSED = frozenset({"ISO_10918_1", "ISO_14495_1", "ISO_15444_1"})

WORDS: dict[str, frozenset[str]] = {
    "ImageType": frozenset({"ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "OTHER"}),
    "Modality": frozenset({"XC", "DMS", "OT", "SC", "GM"}),
    "ConversionType": frozenset({"DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"}),
    "BodyPartExamined": _SKIN,
    "Laterality": _SIDES,
    "ImageLaterality": _SIDES,
    "BurnedInAnnotation": _YES_NO,
    "RecognizableVisualFeatures": _YES_NO,
    "LossyImageCompression": frozenset({"00", "01"}),
    "LossyImageCompressionMethod": _COMPRESSED,
    "PhotometricInterpretation": frozenset(
        {
            "MONOCHROME1",
            "MONOCHROME2",
            "RGB",
            "PALETTE COLOR",
            "YBR_FULL",
            "YBR_FULL_422",
            "YBR_PARTIAL_420",
            "YBR_ICT",
            "YBR_RCT",
        }
    ),
    "PresentationLUTShape": frozenset({"IDENTITY", "INVERSE"}),
    "VOILUTFunction": frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"}),
    "ColorSpace": frozenset({"SRGB", "ADOBERGB", "ROMMRGB"}),
    "PixelSpacingCalibrationType": frozenset({"GEOMETRY", "FIDUCIAL"}),
    "SpatialLocationsPreserved": frozenset({"YES", "NO", "REORIENTED_ONLY"}),
}
"""Code strings: any other word is left out."""

CLASSES = frozenset({"SOPClassUID", "ReferencedSOPClassUID"})
"""UIDs that the standard itself gives out."""

UIDS = frozenset(
    {
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "SynchronizationFrameOfReferenceUID",
        "ReferencedSOPInstanceUID",
    }
)
"""UIDs of instances: action U of table E.1-1, and those of the two sequences of images that stay."""

DATES = frozenset(
    {
        "StudyDate",
        "SeriesDate",
        "AcquisitionDate",
        "ContentDate",
        "InstanceCreationDate",
        "AcquisitionDateTime",
    }
)
"""Dates that an option of the profile can keep or shift: when the picture was taken, but no dates of birth."""
TIMES = frozenset({"StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "InstanceCreationTime"})

EMPTY = (
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "Manufacturer",
)
"""Attributes of type 2, present without a value (action Z): objects would be invalid without them."""

CODED = frozenset(
    {
        "AnatomicRegionSequence",
        "AnatomicRegionModifierSequence",
        "PrimaryAnatomicStructureSequence",
        "PrimaryAnatomicStructureModifierSequence",
        "ViewCodeSequence",
        "ViewModifierCodeSequence",
        "IlluminationTypeCodeSequence",
        "DerivationCodeSequence",
        "PurposeOfReferenceCodeSequence",
    }
)
"""Sequences of codes (PS3.3, 8.8): codes of the standard's own context groups stay, with its meanings."""

REFERENCES = frozenset({"SourceImageSequence", "ReferencedImageSequence"})
"""Sequences that name other images (action X/Z/U*)."""
