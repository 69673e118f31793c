"""Reading images, masks and labels, and batches of them."""
