"""Which pictures get no diagnosis, as no dermoscopic images: of skin, of changed skin, of other things."""
