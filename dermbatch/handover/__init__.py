"""What leaves the system for those of others: DICOM objects, and the way to a PACS."""
