"""Folds of the training images: the same images have the same folds, however they are read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fre.images.decode import ImageSource
from fre.images.loading import source_digest
from fre.parallel import available_cores
from fre.subspaces.cross_fit import cheap_folds, folds_of, make_folds
from fre.subspaces.protocols import FitOptions
from fre.training.fitted import LEAST_IMAGES
from fre.training.parts import Part

COPIES = 0.25
"""Share of images that are copies of others from which on all copies of an image share a fold."""


@dataclass(frozen=True)
class Folds:
    """The fold of each image, for cross-fitting.

    Parts whose fits cost more have fewer and larger folds: fold k is a part of their fold
    k modulo ``coarse``.

    Attributes:
        of_image: (n,), number of each image's fold, from 0.
        coarse: number of folds of parts with a subspace per position or patch.
        single: whether each image has one row, and shows another part than all others: it may be
            left out by itself.
    """

    of_image: NDArray[np.intp]
    coarse: int
    single: bool = False

    @classmethod
    def of(
        cls, folds: Sequence[NDArray[np.intp]], at_most: int | None = None, *, single: bool = False
    ) -> Folds:
        """Return folds given as lists of images, at most so many for costly parts."""
        of_image = folds_of(sum(map(len, folds)), folds)
        return cls(of_image, min(at_most or len(folds), len(folds)), single)

    @property
    def count(self) -> int:
        """The number of folds."""
        return int(self.of_image.max(initial=0)) + 1

    def leaves_one_out(self, part: Part, options: FitOptions) -> bool:
        """Return whether each image is left out by itself, at no more than the cost of one fit."""
        return self.single and part.leaves_one_out(len(self.of_image), options)

    def rows(self, image: NDArray[np.intp], part: Part) -> list[NDArray[np.intp]]:
        """Return the rows of each fold of a part.

        Args:
            image: (r,), the image of each row.
            part: that is cross-fitted.
        """
        fold = self.of_image[image]
        if part.fixed_size:
            fold = fold % self.coarse
        return [np.flatnonzero(fold == number) for number in np.unique(fold)]


def deal_folds(
    keys: Sequence[str],
    *,
    count: int,
    coarse: int,
    seed: int,
    groups: Sequence[str] | None = None,
    single: bool = False,
) -> Folds:
    """Deal images into folds by their keys, whatever their order.

    Args:
        keys: (n,), digest of each image's file; equal ones are copies.
        count: number of folds.
        coarse: number of folds of parts whose fits cost more.
        seed: random seed of the deal.
        groups: (n,), label of each image; the images of one group share a fold. ``None``: if many
            images are copies, those of one image share a fold.
        single: whether each image has one row.

    Raises:
        OptionError: all images are of one group.
    """
    order = np.argsort(np.array(keys), kind="stable")
    labels = None if groups is None else [groups[row] for row in order]
    folds = make_folds(len(order), folds=count, seed=seed, groups=labels)
    dealt = folds
    if labels is None:
        folds = _with_copies([keys[row] for row in order], folds, seed)
    single = single and labels is None and folds is dealt
    return Folds.of([order[fold] for fold in folds], coarse, single=single)


def deal_streamed(
    sources: Sequence[ImageSource],
    *,
    few: bool,
    coarse: int,
    seed: int,
    groups: Sequence[str] | None = None,
    single: bool = False,
) -> Folds:
    """Deal images into folds before any of them is decoded.

    A few files are hashed first, which is cheap beside the network, so that they have the folds of
    a training that holds all features. Many are dealt in their order, into as many folds for all
    parts, so that memory stays flat.

    Args:
        sources: files, or arrays, uint8 (H, W, 3).
        few: whether the rows of all images fit into image-wide statistics.
        coarse: number of folds of parts whose fits cost more.
        seed: random seed of the deal.
        groups: (n,), label of each image, as for `deal_folds`.
        single: whether each image has one row.

    Raises:
        OptionError: all images are of one group.
    """
    n = len(sources)
    if not few:
        folds = make_folds(n, folds=coarse, seed=seed, groups=groups)
        return Folds.of(folds, single=single and groups is None)
    with ThreadPoolExecutor(available_cores(), "fre-digests") as threads:
        keys = [*threads.map(source_digest, sources)]
    # A file that can't be read is in no fold's statistics.
    read = [row for row, key in enumerate(keys) if key]
    if len({keys[row] for row in read}) < LEAST_IMAGES:
        # Too few images differ: training refuses them once it has read them.
        return Folds.of(make_folds(n, folds=coarse, seed=seed, groups=groups))
    dealt = deal_folds(
        [keys[row] for row in read],
        count=cheap_folds(len(read), coarse),
        coarse=coarse,
        seed=seed,
        groups=None if groups is None else [groups[row] for row in read],
        single=single,
    )
    of_image = np.zeros(n, np.intp)
    of_image[read] = dealt.of_image
    return Folds(of_image, dealt.coarse, dealt.single)


def _with_copies(
    keys: Sequence[str], folds: list[NDArray[np.intp]], seed: int
) -> list[NDArray[np.intp]]:
    """Put copies of an image into the fold of the first of them.

    A copy that is held out alone is scored by a subspace that saw the other. Few copies change
    only the threshold, and the command line counts them; many leave no scale at all.
    """
    _, first, of_image = np.unique(np.array(keys), return_index=True, return_inverse=True)
    if len(keys) - len(first) < COPIES * len(keys):
        return folds
    fold_of = folds_of(len(keys), folds)[first[of_image]]
    kept = [np.flatnonzero(fold_of == number) for number in np.unique(fold_of)]
    # If all images would be in one fold, they are dealt anew, copies together.
    return (
        kept if len(kept) > 1 else make_folds(len(keys), folds=len(folds), seed=seed, groups=keys)
    )
