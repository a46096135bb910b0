import yaml

from atkd_jax.interop.model_card import model_card


def test_the_header_is_yaml_that_the_hub_reads():
    card = model_card(
        title="Small: a student", summary="Short.", sections={}, base_model="org/teacher", license="apache-2.0"
    )
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "base_model": "org/teacher",
        "tags": ["knowledge-distillation"],
    }
    assert body.startswith("\n# Small: a student\n\nShort.\n")
    assert "AutoModelForCausalLM.from_pretrained" in body


def test_what_is_not_known_is_not_said():
    header = model_card(title="t", summary="s", sections={}, tags=()).split("---\n")[1]
    assert yaml.safe_load(header) == {"library_name": "transformers"}


def test_facts_become_tables_and_text_stays_text():
    card = model_card(
        title="t",
        summary="s",
        sections={
            "Limits": "None known.",
            "Run": {"steps": 30, "objective": "atkd|x", "loss": 0.123456},
            "Results": {"teacher": {"perplexity": 18.0}, "student": {"perplexity": 150.25, "agreement": 0.5}},
        },
    )
    assert "## Limits\n\nNone known.\n" in card
    assert "## Run\n\n|  |  |\n| --- | --- |\n| steps | 30 |\n| objective | atkd\\|x |\n| loss | 0.1235 |\n" in card
    table = ["|  | perplexity | agreement |", "| --- | --- | --- |", "| teacher | 18 |  |", "| student | 150.2 | 0.5 |"]
    assert "## Results\n\n" + "\n".join(table) + "\n" in card
