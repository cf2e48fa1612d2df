"""A file becomes pixels: uint8 (H, W, 3), RGB, upright, at the input's size.

- ``formats``: safe opening of files: known formats, bounded work.
- ``decode`` and ``loading``: decoding of one image, and of a stream.
- ``bits``: 16-bit values become 8-bit ones. ``jpeg``: decoding at reduced scale.
- ``geometry``: resizing, letterbox, tiles. ``roi``: the inspected region.
- ``preparation``: from an image file to the network's inputs, for fit, predict, serve and quantize.
- ``resize``: anomaly maps at another size.
- ``appearance``: pixel statistics of training images, to find dead cameras.
- ``augmentation`` and ``near_duplicates``: shifted copies, and copies among training images.
"""
