"""A folder that fills up becomes a stream of judged images, each judged once."""
