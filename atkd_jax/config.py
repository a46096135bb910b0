"""The config tree: frozen, validated, every field documented, no key accepted that is not here.

Defaults stand here; a YAML file holds only what differs from them; the command line overrides both by dotted name.
Functions of the other rooms receive the values that they use, not this tree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from atkd_jax.config_cache import CacheConfig
from atkd_jax.config_evaluation import EvaluationConfig
from atkd_jax.config_landscape import LandscapeConfig
from atkd_jax.config_machines import DistributedConfig, MeshConfig, ProfileConfig
from atkd_jax.config_neighbours import AnswersConfig, ImagesConfig, InstanceWeightingConfig, TokenSimilarityConfig
from atkd_jax.config_node import Dtype, Node, UserPath
from atkd_jax.config_rollout import RolloutConfig
from atkd_jax.config_student import StudentConfig
from atkd_jax.config_teacher import TeacherConfig


class DataConfig(Node):
    """Prompts and responses, and how they become batches."""

    source: str = Field(
        default="python_stdlib", description="A JSONL file, or the name of a data set of TFDS or of the hub."
    )
    train_split: str = Field(
        default="train", description="Split to learn from. A JSONL file has one split, 'train'; slices work."
    )
    template: Literal["chat", "plain"] = Field(
        default="chat", description="The tokenizer's chat template, or prompt + response."
    )
    sequence_length: int = Field(default=512, ge=2, description="Tokens in a row of a batch.")
    packing: bool = Field(default=True, description="Put several examples into one row; attention does not cross them.")
    overlong: Literal["truncate", "drop", "error"] = Field(
        default="truncate", description="What happens to an example longer than a row. Each is counted."
    )
    corpus: str | None = Field(
        default=None,
        description="Plain text, as source, for the rows that no model writes, in place of the data's responses.",
    )
    corpus_split: str = Field(default="train", description="Of the corpus.")


class ObjectiveConfig(Node):
    """What the student minimises."""

    name: Literal[
        "atkd",
        "decoupled_kd",
        "uncertainty_weighted_kl",
        "forward_kl",
        "reverse_kl",
        "generalized_jsd",
        "total_variation",
        "skewed_forward_kl",
        "skewed_reverse_kl",
        "cross_entropy",
        "universal_logit",
        "minillm_paper",
        "minillm_lmops",
    ] = Field(default="atkd", description="The loss.")
    temperature: float = Field(
        default=1.0, gt=0, description="Divides both models' logits; the loss is not scaled back by T^2."
    )
    beta: float = Field(default=0.5, ge=0, le=1, description="generalized_jsd: the teacher's share of the mixture.")
    alpha: float = Field(
        default=0.1, ge=0, le=1, description="skewed KLs: the share of the first model in its mixture."
    )
    hard_fraction: float = Field(default=0.5, ge=0, le=1, description="atkd: the share of tokens taught as hard ones.")
    easy_weight: float = Field(
        default=0.2, ge=0, le=1, description="atkd: lambda, the weight of the easy tokens' mean."
    )
    direction: Literal["forward", "reverse"] = Field(
        default="forward", description="atkd, decoupled_kd: the direction of TKD and DKD."
    )
    divergence: Literal["generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl", None] = Field(
        default=None, description="atkd, decoupled_kd: what TKD and DKD are the parts of, in place of a KL."
    )
    normalizer: Literal["group_mean", "total_tokens"] = Field(
        default="group_mean", description="atkd: what divides the sums."
    )
    gate_scope: Literal["global", "microbatch"] = Field(
        default="global", description="atkd: tokens are ranked over the whole step's batch, or within each micro-batch."
    )
    target_weight: float = Field(default=1.0, ge=0, description="decoupled_kd: the weight of TKD.")
    diversity_weight: float = Field(default=1.0, ge=0, description="decoupled_kd: the weight of DKD.")
    gamma: float = Field(
        default=1.0, ge=0, description="uncertainty_weighted_kl: TKD + UNC^gamma DKD; 1 is KL, 0 undamped diversity."
    )
    adaptive: bool = Field(
        default=False,
        description="Puts ATKD's gate on the divergence of that name: easy tokens by its DKD, hard ones by TKD + DKD.",
    )
    cross_entropy_weight: float = Field(
        default=0.0, ge=0, le=1, description="Mixes the data's own cross-entropy in: w CE + (1 - w) distillation."
    )
    tokens: Literal["all", "easy", "hard"] = Field(
        default="all",
        description="Learn from all tokens, or from those alone that ATKD's gate calls easy or hard, by hard_fraction.",
    )
    instance_weighting: InstanceWeightingConfig = InstanceWeightingConfig()
    token_similarity: TokenSimilarityConfig = TokenSimilarityConfig()
    universal_logit_weight: float = Field(
        default=1.5, ge=0, description="universal_logit: lambda of CE + lambda times the distance."
    )

    @property
    def pairs_tokens(self) -> bool:
        """Whether student and teacher each read the text in their own tokens."""
        return self.name == "universal_logit"

    @property
    def reads_teacher(self) -> bool:
        """Whether the loss asks anything of the teacher; plain cross-entropy takes its tokenizer alone."""
        return self.name != "cross_entropy" or self.tokens != "all"

    @model_validator(mode="after")
    def _has_one_divergence(self) -> ObjectiveConfig:
        if self.divergence is not None and self.direction != "forward":
            raise ValueError(
                f"objective.direction={self.direction} chooses a KL and objective.divergence={self.divergence} another "
                "divergence; set only one of them"
            )
        return self

    @model_validator(mode="after")
    def _goes_with_its_name(self) -> ObjectiveConfig:
        self.instance_weighting.require_place_in(self.name, cross_entropy_weight=self.cross_entropy_weight)
        self.token_similarity.require_place_in(self.name, temperature=self.temperature, adaptive=self.adaptive)
        if (self.name.startswith("minillm") or self.pairs_tokens) and self.cross_entropy_weight:
            raise ValueError(
                f"objective.name={self.name} has a loss of its own on the data's text, but "
                f"objective.cross_entropy_weight={self.cross_entropy_weight}; leave it at 0"
            )
        if self.tokens != "all" and (
            self.adaptive
            or self.name in ("atkd", "universal_logit")
            or self.name.startswith("minillm")
            or self.instance_weighting.is_on
        ):
            raise ValueError(
                f"objective.tokens={self.tokens} leaves tokens out of a plain divergence, but objective.name="
                f"{self.name} or another setting weighs tokens by itself; name a plain divergence, or leave tokens at "
                "all"
            )
        if self.adaptive and self.name in (
            "decoupled_kd",
            "uncertainty_weighted_kl",
            "cross_entropy",
            "universal_logit",
        ):
            raise ValueError(
                f"objective.adaptive=true puts ATKD's gate on a divergence, but objective.name={self.name} is none; "
                "name a divergence, or leave adaptive out"
            )
        return self


class OptimizerConfig(Node):
    """AdamW with linear warm-up, cosine decay and clipping by the global norm."""

    learning_rate: float = Field(default=1e-3, gt=0, description="The peak.")
    warmup_steps: int = Field(default=10, ge=0, description="Optimizer steps from 0 to the peak.")
    final_fraction: float = Field(
        default=0.1, ge=0, le=1, description="The last step's learning rate as a share of the peak."
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="Of matrices; vectors such as norm scales are not decayed."
    )
    b1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the running mean of the gradient.")
    b2: float = Field(default=0.95, ge=0, lt=1, description="Decay of the running mean of its square.")
    eps: float = Field(default=1e-8, gt=0, description="Added to the root of the mean square.")
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="Largest global norm of the gradient; none to leave it."
    )


class TrainingConfig(Node):
    """The loop."""

    steps: int = Field(default=100, ge=1, description="Optimizer steps in all, those before a restart included.")
    batch_size: int = Field(default=8, ge=1, description="Rows per optimizer step, over all devices and micro-batches.")
    microbatches: int = Field(
        default=1, ge=1, description="The step's rows are worked through in this many equal parts."
    )
    dtype: Dtype = Field(
        default="float32", description="Type of the student's arithmetic; its weights are kept in float32."
    )
    remat: Literal["none", "full", "dots"] = Field(
        default="none",
        description="What the backward pass recomputes: nothing, every layer, or all but matrix products.",
    )
    attention: Literal["auto", "xla", "splash"] = Field(
        default="auto",
        description="Who computes attention: XLA, or jax's splash kernels, which keep scores on the chip; by auto "
        "these on TPUs, for rows of a multiple of 128 tokens.",
    )
    chunk_tokens: int = Field(
        default=512,
        ge=1,
        description="Counted tokens that go through the heads at once, on each device; changes memory and speed only.",
    )
    max_nonfinite_steps: int = Field(default=5, ge=1, description="Stop after so many skipped steps in a row.")
    log_every_steps: int = Field(default=1, ge=1, description="Steps between lines of metrics.jsonl.")
    validate_every_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between measurements of the student's cross-entropy on evaluation.split; none for none.",
    )
    validation_examples: int = Field(
        default=64, ge=1, description="How many examples that is, evenly spaced over the split."
    )
    gradient_share_every_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between measurements of what each term of the loss, and easy and hard tokens, give of the "
        "gradient; none for none.",
    )

    @model_validator(mode="after")
    def _divides(self) -> TrainingConfig:
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"training.batch_size={self.batch_size} must be a multiple of training.microbatches={self.microbatches}"
            )
        return self


class CheckpointConfig(Node):
    """When the run is saved, and what is kept."""

    every_steps: int = Field(default=100, ge=1, description="Steps between checkpoints; the last step is always saved.")
    keep: int = Field(default=2, ge=1, description="The newest so many stay.")


class ExportConfig(Node):
    """The Hugging Face directory that a run ends in."""

    dtype: Dtype = Field(default="float32", description="Type of the exported weights.")
    max_shard_bytes: int = Field(
        default=5_000_000_000, ge=1, description="Above this size the weights are split into files."
    )
    lora: Literal["merged", "adapter"] = Field(
        default="merged",
        description="A student with adapters goes out with them added to its weights, or as a PEFT adapter.",
    )


class Config(Node):
    """One run."""

    run_dir: UserPath = Field(default=Path("runs/default"), description="Everything that the run writes lands here.")
    cache_dir: UserPath = Field(
        default=Path("~/.cache/atkd_jax"),
        validate_default=True,
        description="Models and data sets that were brought or prepared.",
    )
    seed: int = Field(default=0, ge=0, description="Of the order of the data and of random weights.")
    teacher: TeacherConfig = TeacherConfig()
    cache: CacheConfig = CacheConfig()
    student: StudentConfig = StudentConfig(layers=8)
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    rollout: RolloutConfig = RolloutConfig()
    images: ImagesConfig = ImagesConfig()
    answers: AnswersConfig = AnswersConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    landscape: LandscapeConfig = LandscapeConfig()
    export: ExportConfig = ExportConfig()
    mesh: MeshConfig = MeshConfig()
    distributed: DistributedConfig = DistributedConfig()
    profile: ProfileConfig = ProfileConfig()

    @model_validator(mode="after")
    def _profiles_a_step_of_the_run(self) -> Config:
        start_step = self.profile.start_step
        if start_step is not None and start_step > self.training.steps:
            raise ValueError(
                f"profile.start_step={start_step} must be at most training.steps={self.training.steps}, the last step"
            )
        return self

    @model_validator(mode="after")
    def _has_text_for_its_objective(self) -> Config:
        if self.objective.name.startswith("minillm") and self.rollout.author not in ("student", "mixed"):
            raise ValueError(
                f"objective.name={self.objective.name} learns from the student's own text, but rollout.author="
                f"{self.rollout.author}; set it to student or mixed"
            )
        needed = {"buffer_size": 0, "temperature": 1.0, "top_k": None, "top_p": 1.0}
        given = {name: getattr(self.rollout, name) for name in needed}
        if self.objective.name.startswith("minillm") and given != needed:
            raise ValueError(
                f"objective.name={self.objective.name} weighs text by the probability that it was drawn with, so that "
                f"it must be drawn anew and from whole distributions, but rollout has {given}; leave them as they are"
            )
        return self

    @model_validator(mode="after")
    def _has_two_tokenizers_for_its_objective(self) -> Config:
        if not self.objective.pairs_tokens:
            return self
        given = {
            "student.init": (self.student.init, "directory"),
            "rollout.author": (self.rollout.author, "data"),
            "teacher.cache": (self.teacher.cache, None),
            "training.validate_every_steps": (self.training.validate_every_steps, None),
        }
        for name, (value, needed) in given.items():
            if value != needed:
                raise ValueError(
                    f"objective.name={self.objective.name} is for a student with a tokenizer of its own and a live "
                    f"teacher of the data's text, but {name}={value}; set it to {needed or 'null'}"
                )
        return self

    @model_validator(mode="after")
    def _caches_the_datas_text(self) -> Config:
        if self.teacher.cache is not None and self.rollout.author != "data":
            raise ValueError(
                f"teacher.cache={self.teacher.cache} holds what the teacher says of the data's text, but "
                f"rollout.author={self.rollout.author} has text written during the run; set it to data, or leave "
                "teacher.cache out"
            )
        return self

    @model_validator(mode="after")
    def _rolls_out_unpacked_rows(self) -> Config:
        self.rollout.require_place_in(
            packing=self.data.packing,
            corpus=self.data.corpus,
            validates=self.training.validate_every_steps is not None,
            weighs_instances=self.objective.instance_weighting.is_on,
            sequence=self.mesh.sequence,
        )
        self.objective.token_similarity.require_embeddings(
            quantize=self.teacher.quantize, cache=self.teacher.cache, author=self.rollout.author
        )
        return self
