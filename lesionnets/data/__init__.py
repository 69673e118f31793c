"""Read images, masks and labels, and make batches of them."""
