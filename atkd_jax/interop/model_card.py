"""The README.md of an exported model, built from a run's facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

_USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(path)
tokenizer = AutoTokenizer.from_pretrained(path)
```
"""


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _table(rows: Mapping[str, object]) -> str:
    """Return a Markdown table: two columns, or a column for each name where the values are mappings themselves."""
    if rows and all(isinstance(row, Mapping) for row in rows.values()):
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))  # type: ignore[union-attr]
        lines = [["", *columns], *([title, *(row.get(name, "") for name in columns)] for title, row in rows.items())]  # type: ignore[union-attr]
    else:
        lines = [["", ""], *([name, value] for name, value in rows.items())]
    cells = ["| " + " | ".join(_cell(value) for value in line) + " |" for line in lines]
    return "\n".join([cells[0], "|" + " --- |" * len(lines[0]), *cells[1:]]) + "\n"


def model_card(
    *,
    title: str,
    summary: str,
    sections: Mapping[str, str | Mapping[str, object]],
    base_model: str | None = None,
    license: str | None = None,
    tags: Sequence[str] = ("knowledge-distillation",),
) -> str:
    """Return a model card in the hub's form: a YAML header, then Markdown.

    Args:
        title: the model's name.
        summary: a sentence or a few on what it is.
        sections: heading -> text, or facts to be set as a table: name -> value, or name -> column -> value.
        base_model: the teacher's hub id.
        license: of the weights, by its SPDX name in lower case.
        tags: the hub's.

    >>> card = model_card(title="Small", summary="A student.", sections={"Results": {"perplexity": 21.5}})
    >>> print(card.splitlines()[0], card.splitlines()[-1])
    --- | perplexity | 21.5 |
    """
    facts = {"library_name": "transformers", "license": license, "base_model": base_model, "tags": list(tags)}
    header = yaml.safe_dump({name: value for name, value in facts.items() if value}, sort_keys=False)
    parts = [f"---\n{header}---\n", f"# {title}\n", f"{summary}\n", f"## Use\n\n{_USE}"]
    for heading, content in sections.items():
        body = content if isinstance(content, str) else _table(content)
        parts.append(f"## {heading}\n\n{body.rstrip()}\n")
    return "\n".join(parts)
