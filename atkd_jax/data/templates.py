"""From text to token ids: how a prompt is put to a model, and how a response ends."""

from __future__ import annotations

from typing import Any, Literal

from atkd_jax.errors import InputError

TemplateName = Literal["chat", "plain"]
_MARK = "the answer"


class Template:
    """Turns prompts and responses into token ids, each by itself, so that the boundary between them is clean.

    `chat`: the prompt is the user's turn in the tokenizer's chat template, without its trailing white space, up to
    where the assistant begins to speak. A response ends with the token that closes the assistant's turn there, which
    is the EOS token of most chat models (Gemma's is `<end_of_turn>`).

    `plain`: the prompt as it is, after the BOS token where the tokenizer adds one, then the response, then EOS. There
    is nothing between them: a prompt ends with whatever keeps them apart.

    Args:
        name: `chat` or `plain`.
        tokenizer: a fast tokenizer of transformers.

    Raises:
        InputError: `chat`, and the tokenizer has no chat template; or there is no token to end a response with.
    """

    def __init__(self, name: TemplateName, tokenizer: Any):
        if name not in ("chat", "plain"):
            raise InputError(f"The template must be 'chat' or 'plain', but is {name!r}: choose one of them.")
        if name == "chat" and not tokenizer.chat_template:
            raise InputError(
                "The template 'chat' needs a tokenizer with a chat template, but this model's tokenizer has none: set "
                "data.template to 'plain', or use an instruction-tuned model's tokenizer."
            )
        self.name = name
        self._tokenizer = tokenizer
        self.closing_id = self._find_closing_id()
        # What a tokenizer puts around a text of its own accord is wanted before a prompt, but not behind it.
        self._tokenizer_closes_texts = self._encode("", add_special_tokens=True)[-1:] == [tokenizer.eos_token_id]

    def prompt_ids(self, prompt: str) -> list[int]:
        """Returns the ids of the prompt with all that stands before the response."""
        if self.name == "chat":
            text = self._render([{"role": "user", "content": prompt.rstrip()}], add_generation_prompt=True)
            return self._encode(text)  # the template has written the special tokens
        ids = self._encode(prompt, add_special_tokens=True)
        return ids[:-1] if self._tokenizer_closes_texts else ids

    def response_ids(self, response: str, *, ended: bool = True) -> list[int]:
        """Returns the ids of the response and, where it has ended, of the token that closes it."""
        return [*self._encode(response), *([self.closing_id] if ended else [])]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer when text is generated: the closing one, and EOS."""
        ids = {self.closing_id, self._tokenizer.eos_token_id} - {None}
        return tuple(sorted(ids))

    @property
    def padding_id(self) -> int:
        """The id that fills a row; nothing attends to it, and no target counts it."""
        pad_id = self._tokenizer.pad_token_id
        return self.closing_id if pad_id is None else pad_id

    def _encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        # Not verbose: transformers would warn of texts longer than the model's maximum, which are dealt with later.
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False)

    def _render(self, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        return self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)

    def _find_closing_id(self) -> int:
        if self.name == "chat":
            turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _MARK}]
            after = self._render(turns, add_generation_prompt=False).rpartition(_MARK)[2]
            ids = self._encode(after)
            if ids and ids[0] in self._tokenizer.added_tokens_decoder:
                return ids[0]
        if self._tokenizer.eos_token_id is None:
            raise InputError(
                "The tokenizer has no EOS token, so a response could not end: set `eos_token` in tokenizer_config.json."
            )
        return self._tokenizer.eos_token_id


def render_prompt(prompt: str, tokenizer: Any, template: TemplateName) -> list[int]:
    """Returns the token ids after which a model answers `prompt`, the same that training puts before a response."""
    return Template(template, tokenizer).prompt_ids(prompt)
