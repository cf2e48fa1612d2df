"""Pages, charts and pictures of results.

A report is one HTML page that loads nothing from anywhere, and reads without scripts, on a phone,
in the dark and on paper.
"""
