"""The order of the house, for the tests of imports, of test files and of the architecture page."""

from __future__ import annotations

# The way of the data. A module imports from the lines above its own, and from its own room.
LEVELS = [
    ["version", "errors", "types"],
    ["storage", "onnx_tools", "parallel"],
    ["images", "subspaces", "backbones", "runtimes"],
    ["datasets", "features", "drawing"],
    ["scoring"],
    ["inference"],
    ["training"],
    ["model"],
    ["detector", "evaluation", "distributed", "line"],
    ["report", "quantize", "sklearn", "checks"],
    ["benchmark", "serve"],
    ["cli"],
]

# Tests that no single module's name fits, below tests/.
ACROSS_MODULES = {
    "test_docs.py": "the README and the pages in docs",
    "test_fuzz.py": "mutated images, requests and model files, made by tests/fuzz.py",
    "test_golden.py": "models, predictions and JSON of fixed images, made by tests/golden.py",
    "test_imports.py": "the order of imports, and of the tests",
    "cli/test_interruption.py": "signals during any command",
    "inference/test_model_file.py": "damaged files, through every module that reads them",
    "serve/test_history.py": "results kept across restarts and damage",
    "serve/test_hostile_requests.py": "uploads of all kinds to a real service",
    "serve/test_limits.py": "bounds of all modules of the service",
    "serve/test_load.py": "many clients of a real service",
    "serve/test_page.py": "the page in a real browser",
    "serve/test_source.py": "a stream and a folder, from the source to the receiver",
    "serve/test_schema.py": "a real service against its own documentation",
    "training/test_contributions.py": "what each layer adds, from training to prediction",
    "training/test_per_tile.py": "a model for each tile, from training to prediction",
    "training/test_reference.py": "the reference preset, from training to evaluation",
    "training/test_streaming.py": "features that are not kept, in all of training",
}

# Rooms of tests beside those of the package.
OTHER_ROOMS = {
    "benchmarks": "the scripts in benchmarks/",
    "deploy": "the container and the service files in deploy/",
    "examples": "the programs in examples/",
}
