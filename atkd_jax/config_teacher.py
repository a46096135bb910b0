"""The part of the config that says who teaches: a model here, a cache of what it said, or a server to ask for one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from atkd_jax.config_node import Dtype, Node, UserPath


class EndpointOptionsConfig(Node):
    """How teacher.endpoint is asked; `cache` reads it."""

    api: Literal["vllm", "echo", "llama_cpp"] = Field(
        default="vllm",
        description="What the server knows: vLLM's prompt_logprobs, echo with tokens by id, or llama.cpp's completion.",
    )
    model: str | None = Field(default=None, description="The model's name at the server; teacher.model if none.")
    key_variable: str | None = Field(
        default=None, description="The environment variable that holds the API key; none sends no key."
    )
    in_flight: int = Field(default=8, ge=1, description="Examples that are asked about at once.")
    requests_per_second: float | None = Field(
        default=None, gt=0, description="Requests in a second at most, all together; none sets no limit."
    )
    attempts: int = Field(default=6, ge=1, description="How often a request is sent before the run stops.")
    timeout_seconds: float = Field(default=120.0, gt=0, description="The longest silence of the server in an answer.")


class TeacherConfig(Node):
    """The model that teaches."""

    model: str = Field(
        default="smollm2-135m-instruct", description="A name that `fetch` knows, a directory, a GGUF file, or a hub id."
    )
    dtype: Dtype = Field(default="float32", description="Type of the teacher's weights and of its arithmetic.")
    quantize: Literal["int8", "int4", None] = Field(
        default=None, description="Store the teacher's matrices as integers while it teaches; its arithmetic stays."
    )
    cache: UserPath | None = Field(
        default=None,
        description="A directory that `cache` fills with what the teacher says of the training data, and that `train` "
        "reads in place of running the teacher.",
    )
    endpoint: str | None = Field(
        default=None,
        description="A server that `cache` asks in place of running the teacher, as http://host:8000/v1; of "
        "teacher.model only the tokenizer is read.",
    )
    endpoint_options: EndpointOptionsConfig = EndpointOptionsConfig()

    @model_validator(mode="after")
    def _caches_what_is_served(self) -> TeacherConfig:
        if self.endpoint is not None and self.cache is None:
            raise ValueError(
                f"teacher.endpoint={self.endpoint} is asked by `cache` alone, which writes to teacher.cache; name that "
                "directory, and run `cache` before `train`"
            )
        return self
