"""The parts of the config that are AdaKD's and ReffAKD's: weights of examples, and soft labels without a teacher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from atkd_jax.config_node import Node


class InstanceWeightingConfig(Node):
    """AdaKD: alpha KD + (1 - alpha) cross-entropy, with an alpha of every example by the teacher's loss on it."""

    k_start: float | None = Field(
        default=None, gt=0, description="Steepness at the first step, easy examples first; none weighs all alike."
    )
    k_end: float | None = Field(default=None, lt=0, description="Steepness at the last step, hard examples last.")
    threshold: float | None = Field(
        default=None,
        description="The teacher's mean loss over the data's examples, nats per token; none measures it at the start.",
    )
    threshold_examples: int | None = Field(
        default=None, ge=1, description="Measure the threshold on so many evenly spaced examples; none takes all."
    )
    averaging: Literal["tokens", "examples"] = Field(
        default="tokens", description="What counts alike in the batch's loss: every token, or every example."
    )

    @property
    def is_on(self) -> bool:
        """Whether examples are weighted."""
        return self.k_start is not None

    @model_validator(mode="after")
    def _has_both_ends(self) -> InstanceWeightingConfig:
        if (self.k_start is None) != (self.k_end is None):
            raise ValueError(
                "objective.instance_weighting needs both k_start and k_end, or neither, but "
                f"k_start={self.k_start} and k_end={self.k_end} came"
            )
        return self

    def require_place_in(self, name: str, *, cross_entropy_weight: float) -> None:
        """Raises ValueError where the objective of that name has no room for the weights."""
        if self.is_on and (name in ("cross_entropy", "universal_logit") or name.startswith("minillm")):
            raise ValueError(
                f"objective.instance_weighting weighs a divergence against the data's cross-entropy, but objective.name"
                f"={name} is none; name a divergence or atkd, or leave k_start and k_end out"
            )
        if self.is_on and cross_entropy_weight:
            raise ValueError(
                "objective.instance_weighting says how much cross-entropy each example has, and "
                f"objective.cross_entropy_weight={cross_entropy_weight} says it too; leave that at 0"
            )


class TokenSimilarityConfig(Node):
    """ReffAKD for tokens: the teacher's embeddings say how alike tokens are, and its layers are never run."""

    scale: float | None = Field(
        default=None,
        gt=0,
        description="Multiplies the cosines of a token's row before the softmax; none has the teacher's model teach.",
    )
    delta: float = Field(
        default=0.0, ge=0, description="Added to a token's own place in its row, after the scale; forward_kl alone."
    )

    def require_place_in(self, name: str, *, temperature: float, adaptive: bool) -> None:
        """Raises ValueError where the objective of that name cannot have soft labels that are raised by delta."""
        is_plain = name == "forward_kl" and temperature == 1 and not adaptive
        if self.delta and (self.scale is None or not is_plain):
            raise ValueError(
                f"objective.token_similarity.delta={self.delta} raises soft labels of token_similarity.scale under "
                f"forward_kl at temperature 1, but scale={self.scale}, name={name}, temperature={temperature}, "
                f"adaptive={adaptive}; set these so, or leave delta at 0"
            )

    def require_embeddings(self, *, quantize: str | None, cache: object, author: str) -> None:
        """Raises ValueError where the teacher's embeddings are not there as they were, or it is to write."""
        if self.scale is not None and (quantize or cache or author in ("teacher", "mixed")):
            raise ValueError(
                "objective.token_similarity takes the teacher's embeddings in float and never runs it, but "
                f"teacher.quantize={quantize}, teacher.cache={cache} and rollout.author={author}; set them to none, "
                "none, and data or student"
            )


class ImagesConfig(Node):
    """ReffAKD: a student of labelled images, with soft labels from an autoencoder in place of a teacher."""

    source: str | None = Field(
        default=None, description="`digits`, or an image set of TFDS; none trains a language model."
    )
    train_split: str = Field(default="train", description="Split to learn from.")
    test_split: str = Field(default="test", description="Split to measure on.")
    width: int = Field(default=16, ge=2, description="Channels of the student's last two convolutions.")
    autoencoder_steps: int = Field(default=300, ge=1, description="Steps of the autoencoder, before the student's.")
    weight: float = Field(default=0.5, ge=0, le=1, description="a of (1 - a) CE + a T^2 D.")
    temperature: float = Field(default=1.0, gt=0, description="T, of the student only.")
    distance: Literal["kl", "soft_cross_entropy", "kl_element_mean"] = Field(
        default="kl", description="D: KL, the soft cross-entropy, or KL over the number of classes."
    )
    delta: float = Field(default=0.0225, ge=0, description="Raises a class's likeness to itself.")


class AnswersConfig(Node):
    """Scores of short answers: teacher.model is fine-tuned to give them, and a very small student learns from both."""

    source: str | None = Field(
        default=None, description="A JSONL file of item, response and score, or a text set of TFDS; none: no scores."
    )
    train_split: str = Field(default="train[:80%]", description="Split to learn from.")
    test_split: str = Field(default="train[80%:]", description="Split to measure on.")
    teacher_weight: float = Field(default=1.0, ge=0, description="lambda of CE(y) + lambda CE(teacher); 0: no teacher.")
    teacher_steps: int = Field(default=200, ge=1, description="Steps of the teacher's fine-tuning.")
    teacher_layers: int | None = Field(
        default=None, ge=1, description="The teacher's first layers, so many, are kept and fine-tuned; none keeps all."
    )
    teacher_learning_rate: float = Field(default=2e-5, gt=0, description="The peak of the teacher's fine-tuning.")
    buckets: int = Field(default=1024, ge=2, description="Numbers that the student's hashed tokens may have.")
    width: int = Field(default=24, ge=1, description="Of the student's embeddings and convolution.")
    length: int = Field(default=64, ge=3, description="The longest answer, in tokens of either model.")
