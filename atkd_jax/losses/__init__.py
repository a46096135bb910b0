"""Losses for distilling a language model: pure functions of arrays that import jax and nothing else.

One value per token, `[..., vocab]` -> `[...]`:

    forward_kl, reverse_kl               KL in either direction
    generalized_jsd, total_variation     bounded divergences
    skewed_forward_kl, skewed_reverse_kl KL to a mixture of both models
    adaptive_kl                          both KLs, weighted by where the student is off
    uncertainty_weighted_kl              from KL to undamped diversity by a power of UNC
    cross_entropy, target_log_prob       the student, or any model, against the data
    teacher_uncertainty                  UNC = 1 - p(target)
    target_kd, diversity_kd              the two parts of KL; `decoupled_terms` has them and more in one pass
    decoupled_divergence                 the same two parts of any divergence, for ATKD's gate to sit on
    universal_logit                      between sorted probabilities, for models whose vocabularies differ

Over a whole batch:

    atkd, decoupled_kd                   one scalar and a dict of diagnostics
    mean_divergence                      the mean of any of the losses above
    hard_token_mask, hard_token_threshold, atkd_token_weights, atkd_diagnostics
                                         the parts of atkd, for batches that are worked through in micro-batches

From hidden states and heads, never building `[tokens, vocab]`:

    linear_atkd, linear_divergence       the same values and gradients, a block of the vocabulary at a time
    linear_decoupled_terms               per token, for any gate and weighting outside of it
    linear_weighted_sum                  for weights that are known beforehand, with the gradient formed going forward
    linear_target_log_prob               what the gate needs of the teacher
    linear_universal_logit_sum           a chunk of tokens with all their words at a time, because it sorts them

From a few words a token in place of the teacher, as they are kept on disk:

    top_k_signal, rest_sample            what to keep: TopKSignal (and TailSample), RestSample
    sparse_divergence, sparse_decoupled_divergence
                                         per token, from the student's logits
    sparse_atkd, sparse_decoupled_kd     over a batch
    sparse_linear_divergence, sparse_linear_atkd, sparse_linear_weighted_sum, sparse_linear_decoupled_terms
                                         the same from hidden states and head
    sparse_form                          which of them is exact, unbiased or a lower bound

From text that a model wrote, one value per token, `[..., T]`:

    mixed_log_probs                      a teacher that takes part in writing
    importance_weights                   q / p~ of what was written
    reverse_kl_rewards, discounted_returns, whitened
                                         what a token is worth
    clipped_surrogate                    PPO's loss
    single_step_reverse_kl               the part of the policy gradient that needs no sample

One value per example, whatever the losses are:

    instance_weights, instance_steepness AdaKD's share of distillation, and its schedule
    instance_weighted                    alpha KD + (1 - alpha) task
    example_means, example_shares        from a loss per token to one per example, where examples share rows

From how alike the classes are, without a teacher:

    class_means, similarity_rows, soft_labels
                                         ReffAKD's soft labels, a row at a time
    soft_label_loss, soft_cross_entropy  (1 - a) CE + a T^2 D, and cross-entropy to probabilities, per example

Arrays are passed by keyword, so that student and teacher cannot be swapped unseen. Results are float32, or float64
where an input is; a bfloat16 input is widened inside.
"""

from atkd_jax.losses.adaptive import adaptive_kl, decoupled_divergence, uncertainty_weighted_kl
from atkd_jax.losses.decoupling import DecoupledTerms, decoupled_terms, diversity_kd, target_kd
from atkd_jax.losses.divergences import (
    forward_kl,
    generalized_jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    total_variation,
)
from atkd_jax.losses.gate import atkd_token_weights, hard_token_mask, hard_token_threshold
from atkd_jax.losses.instance_weights import (
    example_means,
    example_shares,
    instance_steepness,
    instance_weighted,
    instance_weights,
)
from atkd_jax.losses.linear import linear_atkd, linear_decoupled_terms
from atkd_jax.losses.linear_divergence import linear_divergence, linear_target_log_prob, linear_weighted_sum
from atkd_jax.losses.linear_universal_logit import linear_universal_logit_sum
from atkd_jax.losses.mean_divergence import mean_divergence
from atkd_jax.losses.policy import (
    clipped_surrogate,
    importance_weights,
    mixed_log_probs,
    single_step_reverse_kl,
)
from atkd_jax.losses.returns import discounted_returns, reverse_kl_rewards, whitened
from atkd_jax.losses.soft_labels import (
    ClassMeans,
    class_means,
    similarity_rows,
    soft_cross_entropy,
    soft_label_loss,
    soft_labels,
)
from atkd_jax.losses.sparse import (
    RestSample,
    SparseForm,
    SparseSignal,
    TailSample,
    TopKSignal,
    sparse_form,
)
from atkd_jax.losses.sparse_builders import rest_sample, top_k_signal
from atkd_jax.losses.sparse_divergence import (
    sparse_atkd,
    sparse_decoupled_divergence,
    sparse_decoupled_kd,
    sparse_divergence,
)
from atkd_jax.losses.sparse_linear import (
    sparse_linear_atkd,
    sparse_linear_decoupled_terms,
    sparse_linear_divergence,
    sparse_linear_weighted_sum,
)
from atkd_jax.losses.targets import cross_entropy, target_log_prob, teacher_uncertainty
from atkd_jax.losses.universal_logit import universal_logit
from atkd_jax.losses.whole_batch import atkd, atkd_diagnostics, decoupled_kd

__all__ = [
    "ClassMeans",
    "DecoupledTerms",
    "RestSample",
    "SparseForm",
    "SparseSignal",
    "TailSample",
    "TopKSignal",
    "adaptive_kl",
    "atkd",
    "atkd_diagnostics",
    "atkd_token_weights",
    "class_means",
    "clipped_surrogate",
    "cross_entropy",
    "decoupled_divergence",
    "decoupled_kd",
    "decoupled_terms",
    "discounted_returns",
    "diversity_kd",
    "example_means",
    "example_shares",
    "forward_kl",
    "generalized_jsd",
    "hard_token_mask",
    "hard_token_threshold",
    "importance_weights",
    "instance_steepness",
    "instance_weighted",
    "instance_weights",
    "linear_atkd",
    "linear_decoupled_terms",
    "linear_divergence",
    "linear_target_log_prob",
    "linear_universal_logit_sum",
    "linear_weighted_sum",
    "mean_divergence",
    "mixed_log_probs",
    "rest_sample",
    "reverse_kl",
    "reverse_kl_rewards",
    "similarity_rows",
    "single_step_reverse_kl",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "soft_cross_entropy",
    "soft_label_loss",
    "soft_labels",
    "sparse_atkd",
    "sparse_decoupled_divergence",
    "sparse_decoupled_kd",
    "sparse_divergence",
    "sparse_form",
    "sparse_linear_atkd",
    "sparse_linear_decoupled_terms",
    "sparse_linear_divergence",
    "sparse_linear_weighted_sum",
    "target_kd",
    "target_log_prob",
    "teacher_uncertainty",
    "top_k_signal",
    "total_variation",
    "uncertainty_weighted_kl",
    "universal_logit",
    "whitened",
]
