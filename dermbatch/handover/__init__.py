"""What leaves the system for external ones: DICOM objects, and the way to a PACS."""
