"""The part of the config tree that says how models are compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from atkd_jax.config_node import Node, UserPath


class InstructionsConfig(Node):
    """Sets of instructions that each model answers, to be compared with reference answers."""

    sets: tuple[str, ...] = Field(default=(), description="JSONL files, or names of data sets of TFDS or of the hub.")
    split: str = Field(default="train", description="The split of each; a JSONL file has one, 'train'; slices work.")
    max_examples: int | None = Field(
        default=None, ge=1, description="No more than so many instructions of each set, evenly spaced."
    )
    prompt: Literal["paper", "data"] = Field(
        default="paper",
        description="The paper's wording, as it is; or the wording that training gives a prompt, in data.template.",
    )
    greedy: bool = Field(default=True, description="Answer with the likeliest token each time.")
    seeds: tuple[int, ...] = Field(default=(10, 20, 30, 40, 50), description="Answer with drawn tokens, once a seed.")
    temperature: float = Field(default=1.0, gt=0, description="Of drawn tokens.")
    top_k: int | None = Field(default=None, ge=1, description="Draw among so many of the likeliest tokens.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draw among the fewest tokens of so much probability together."
    )
    max_new_tokens: int = Field(default=256, ge=1, description="The longest answer.")
    max_prompt_tokens: int = Field(
        default=1024, ge=1, description="Of a longer prompt the last so many tokens are kept; such prompts are counted."
    )
    batch_size: int = Field(default=8, ge=1, description="How many are answered at once.")

    @model_validator(mode="after")
    def _says_how_to_answer(self) -> InstructionsConfig:
        if self.sets and not self.greedy and not self.seeds:
            raise ValueError(
                "evaluation.instructions must have greedy=true or at least one of seeds, so that there are answers"
            )
        if len(set(self.seeds)) < len(self.seeds) or any(seed < 0 for seed in self.seeds):
            raise ValueError(
                f"evaluation.instructions.seeds must be numbers of at least 0, each once, but {list(self.seeds)} came"
            )
        return self


class JudgeConfig(Node):
    """A model behind an endpoint of OpenAI's interface that scores answers beside the references."""

    endpoint: str | None = Field(
        default=None, description="Its address up to the version, such as http://localhost:8000/v1."
    )
    model: str = Field(default="", description="The model's name there.")
    api_key_variable: str | None = Field(
        default="OPENAI_API_KEY", description="The environment variable that holds the key; none where none is needed."
    )
    decodings: tuple[str, ...] = Field(
        default=("greedy",), description="Which answers are judged: greedy, or seed_10 and so on."
    )
    both_orders: bool = Field(
        default=False, description="Ask a second time with the reference first, against a judge's liking for a place."
    )
    max_examples: int | None = Field(default=None, ge=1, description="The first so many answers of each set and model.")
    max_output_tokens: int = Field(default=512, ge=1, description="The longest judgement.")
    max_in_flight: int = Field(default=8, ge=1, description="Requests under way at once.")
    attempts: int = Field(default=6, ge=1, description="How often a request is sent at most.")
    timeout_seconds: float = Field(default=120.0, gt=0, description="How long one attempt may take.")
    input_price: float | None = Field(default=None, ge=0, description="Of a million tokens that are sent.")
    output_price: float | None = Field(default=None, ge=0, description="Of a million tokens that come back.")
    max_cost: float | None = Field(
        default=None, ge=0, description="Begin without --yes where the estimated cost is no more than this."
    )


class HarnessConfig(Node):
    """How tasks of lm-evaluation-harness run."""

    task_folder: UserPath | None = Field(default=None, description="A folder with the YAML files of your own tasks.")
    num_fewshot: int | None = Field(
        default=None, ge=0, description="Examples before a question; none: mmlu 5, drop 3, bbh 3, others as they say."
    )
    chat: bool = Field(default=False, description="Put questions to the model in its chat template.")
    limit: int | None = Field(default=None, ge=1, description="The first so many questions of each task.")
    batch_size: int = Field(default=8, ge=1, description="Rows at once.")
    max_length: int = Field(default=2048, ge=2, description="Tokens of a question and its answer; its end is kept.")
    max_new_tokens: int = Field(default=256, ge=1, description="The longest answer, where a task does not say.")


class EvaluationConfig(Node):
    """Held-out measurements, always with the teacher."""

    split: str = Field(default="test", description="The split that `evaluate` reads.")
    max_examples: int | None = Field(
        default=None, ge=1, description="Read no more than so many examples, evenly spaced over the split."
    )
    batch_size: int = Field(default=8, ge=1, description="Rows per batch.")
    samples: int = Field(default=1, ge=0, description="How many prompts are answered by each model, to be read.")
    rouge_examples: int = Field(
        default=0, ge=0, description="How many prompts are answered and scored by ROUGE-L, evenly spaced."
    )
    sample_tokens: int = Field(default=64, ge=1, description="The longest answer.")
    instructions: InstructionsConfig = InstructionsConfig()
    judge: JudgeConfig = JudgeConfig()
    harness: HarnessConfig = HarnessConfig()
