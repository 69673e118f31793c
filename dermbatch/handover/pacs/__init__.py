"""Sending DICOM objects to a PACS, by DICOMweb STOW-RS (PS3.18, section 10.5)."""
