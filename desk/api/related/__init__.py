"""Other pictures that go with an image: of the same person, and similar cases."""
