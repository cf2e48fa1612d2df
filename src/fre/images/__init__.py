"""A file becomes pixels: uint8 (H, W, 3), RGB, upright, at the input's size.

- ``formats``: which files are opened, and how much work they may ask for.
- ``decode`` and ``loading``: one image, and a stream of them.
- ``bits``: 16-bit values become 8-bit ones. ``jpeg``: decoding at reduced scale.
- ``geometry``: resize, letterbox, tiles. ``roi``: the inspected region. ``resize``: of maps.
- ``appearance``: what pixels of training images look like, to find dead cameras.
- ``augmentation`` and ``near_duplicates``: of training images.
"""
