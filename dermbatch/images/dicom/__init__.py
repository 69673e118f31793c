"""The header of a DICOM image: what its pixel data prove about it, its palette, its measures."""
