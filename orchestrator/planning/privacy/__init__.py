"""Privacy: de-identification of what is taken in, pseudonyms, and the way back."""
