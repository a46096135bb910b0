"""Our models as lm-evaluation-harness sees a model; needs the extra `harness`.

What it asks and how text becomes tokens is as in the harness's own Hugging Face model, so that numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from atkd_jax.evaluation.measuring import placed_model
from atkd_jax.evaluation.sequence_scores import SequenceScorer
from atkd_jax.generation import cut_at, generate, stop_at
from atkd_jax.models import Decoder

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def _no_progress(_title: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda done: None)


class HarnessModel(TemplateLM):
    """A decoder for `lm_eval.simple_evaluate(model=...)`.

    Args:
        model: Who is evaluated.
        tokenizer: Its own.
        batch_size: Rows at once.
        max_length: Tokens of a question and its answer; of longer ones the end is kept. No more than the model has
            learned positions for.
        max_new_tokens: The longest answer, where a task does not say.
        mesh: Parameters and rows are spread over its devices.
        progress: Title and total -> a context that gives the function which is told how many are done.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Any,
        *,
        batch_size: int = 8,
        max_length: int = 2048,
        max_new_tokens: int = 256,
        mesh: Mesh | None = None,
        progress: Progress = _no_progress,
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = min(max_length, model.learned_positions or max_length)
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size
        self._mesh = mesh
        self._progress = progress
        self._graphdef, self._params = nnx.split(placed_model(model, mesh))
        self._scorer = SequenceScorer(
            nnx.merge(self._graphdef, self._params), vocab_size=len(tokenizer), batch_size=batch_size, mesh=mesh
        )

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: BOS, or EOS where there is none."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """What the harness names cached requests by."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids, with what the tokenizer adds unless told otherwise or the text begins with BOS already."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as one text, open for the assistant, or with the last turn to be continued."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows that do not overlap."""
        pairs: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, windows):
                pairs.append(window)
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (log_likelihood, _) in zip(owners, self._score(pairs), strict=True):
            totals[owner] += log_likelihood
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to each prompt, up to the first of its stop strings."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        answers: dict[int, str] = {}
        with self._progress("answered", len(requests)) as on_progress:
            for numbers in groups.values():
                prompts = {number: self.tok_encode(requests[number].args[0]) for number in numbers}
                numbers.sort(key=lambda number, prompts=prompts: len(prompts[number]))
                for start in range(0, len(numbers), self._batch_size):
                    chosen = numbers[start : start + self._batch_size]
                    settings = requests[chosen[0]].args[1]
                    texts = self._answers([prompts[number] for number in chosen], chosen, settings)
                    answers.update(zip(chosen, texts, strict=True))
                    on_progress(len(answers))
        return [answers[number] for number in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._score([(context, continuation) for _, context, continuation in requests])

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        with self._progress("scored", len(pairs)) as on_progress:
            return [
                (own.log_likelihood, own.is_greedy)
                for own in self._scorer(pairs, max_length=self.max_length, on_scored=on_progress)
            ]

    def _answers(self, prompts: Sequence[list[int]], numbers: Sequence[int], settings: Mapping[str, Any]) -> list[str]:
        until = settings.get("until") or []
        until = [own for own in ([until] if isinstance(until, str) else until) if own]
        room = int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or self._max_new_tokens)
        temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample") else 0.0
        pad_id = self.tokenizer.pad_token_id

        def decode(ids: Sequence[int]) -> str:
            return self.tokenizer.decode(ids, skip_special_tokens=True)

        written = generate(
            self._graphdef,
            self._params,
            [prompt[-max(self.max_length - room, 1) :] for prompt in prompts],
            max_new_tokens=room,
            eos_ids=(self.eot_token_id,),
            pad_id=self.eot_token_id if pad_id is None else pad_id,
            temperature=temperature,
            top_k=settings.get("top_k") or None,
            top_p=settings.get("top_p"),
            key=jax.random.key(0),
            numbers=numbers,
            end_of=stop_at(until, decode) if until else None,
            batch_size=self._batch_size,
            mesh=self._mesh if jax.device_count() > 1 else None,
        )
        return [cut_at(decode(ids), until) for ids in written]
