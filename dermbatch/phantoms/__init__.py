"""Phantoms: drawn dermoscopic images whose lesion and occlusions are known to the pixel.

They serve as sample images, as test input with known truth, and as training material: `draw_hairs` and its
kin put occlusions on any picture, real ones too. Only NumPy and OpenCV are needed to draw.
"""
