"""What a result says, in codes and units: the same in DICOM objects and in FHIR resources."""
