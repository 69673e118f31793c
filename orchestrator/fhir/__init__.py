"""Results of an image as FHIR resources (R4), and how a FHIR server is sent them."""
