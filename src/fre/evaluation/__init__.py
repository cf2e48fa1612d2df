"""How good a model is on labelled images: figures, comparisons, thresholds."""
