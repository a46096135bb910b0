import json

import pytest


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A JSONL file of forty pairs of prompt and response."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    lines = [{"prompt": f"Add {a} to x.", "response": f"def add(x):\n    return x + {a}\n"} for a in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
