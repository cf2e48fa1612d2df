"""The detector as a service: REST for machines, a page for people. Needs ``fre[serve]``."""
