"""What was found in an image as FHIR resources (R4), and how a FHIR server is given them."""
