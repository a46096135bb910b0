"""The part of the config that says how a served teacher is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atkd_jax.config_node import Node


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
