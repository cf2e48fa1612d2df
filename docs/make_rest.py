"""Write docs/rest.md from the service's own OpenAPI document; a test compares the two.

python docs/make_rest.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("rest.md")
HEAD = """# REST

The endpoints of `fre serve`, generated from its OpenAPI document. A running service has the whole
document, with all bodies and examples, at `/openapi.json`. [serve.md](serve.md) explains the
service. Every error is `{"error": {"code": "queue_full", "message": "..."}}`.

"""


def document() -> dict[str, Any]:
    """Return the OpenAPI document of a service without models."""
    from fre.serve.app import create_app
    from fre.serve.service import Service
    from fre.serve.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        service = Service(Settings(models=Path(folder), data=Path(folder) / "data"))
        api: Any = create_app(service)
        while not hasattr(api, "openapi"):
            api = api.app
        found: dict[str, Any] = api.openapi()
    return found


def reference() -> str:
    """Return the reference of all endpoints as Markdown."""
    rows = ["| endpoint | does | query parameters | errors |", "| --- | --- | --- | --- |"]
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            query = ", ".join(
                f"`{item['name']}`"
                for item in operation.get("parameters", [])
                if item["in"] == "query"
            )
            errors = ", ".join(sorted(code for code in operation["responses"] if code >= "400"))
            summary = operation["summary"].replace("|", "\\|")
            rows.append(f"| `{method.upper()} {path}` | {summary} | {query} | {errors} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    FILE.write_text(reference())
