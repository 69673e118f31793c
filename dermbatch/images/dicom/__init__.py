"""The header of a DICOM image: what its pixel data prove of it, its palette, its measures."""
