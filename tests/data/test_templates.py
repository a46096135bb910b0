import pytest

from atkd_jax.data.templates import Template, render_prompt
from atkd_jax.errors import InputError

GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] | trim }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)


def test_a_chat_prompt_is_what_transformers_renders(tokenizer):
    turn = [{"role": "user", "content": "the fox"}]
    rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
    assert render_prompt("the fox \n", tokenizer, "chat") == rendered
    assert tokenizer.decode(rendered) == "<|im_start|>user\nthe fox<|im_end|>\n<|im_start|>assistant\n"


def test_a_chat_prompt_and_response_are_the_beginning_of_the_rendered_conversation(tokenizer):
    template = Template("chat", tokenizer)
    turns = [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "jumps over 🙂"}]
    ids = template.prompt_ids("the fox") + template.response_ids("jumps over 🙂")
    assert tokenizer.apply_chat_template(turns, tokenize=False) == tokenizer.decode(ids) + "\n"


def test_the_plain_template_puts_nothing_between(tokenizer):
    template = Template("plain", tokenizer)
    assert tokenizer.decode(template.prompt_ids("the fox ")) == "the fox "
    assert template.response_ids("jumps") == [*tokenizer.encode("jumps"), tokenizer.eos_token_id]


def test_bos_stands_before_a_plain_prompt_and_eos_behind_the_response_alone(plain_tokenizer):
    bos, eos = plain_tokenizer.bos_token_id, plain_tokenizer.eos_token_id
    template = Template("plain", plain_tokenizer)
    text = plain_tokenizer.encode("the fox", add_special_tokens=False)
    assert plain_tokenizer.encode("the fox") == [bos, *text, eos]
    assert template.prompt_ids("the fox") == [bos, *text]
    assert template.response_ids("the fox") == [*text, eos]
    assert template.prompt_ids("") == [bos]


def test_a_response_ends_with_the_token_that_closes_the_assistants_turn(make_tokenizer):
    tokenizer = make_tokenizer(eos_token="<|endoftext|>", bos_token="<s>")
    tokenizer.chat_template = GEMMA
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    template = Template("chat", tokenizer)
    assert template.closing_id == turn_end
    assert template.stop_ids == (tokenizer.eos_token_id, turn_end)
    assert template.padding_id == turn_end
    assert template.prompt_ids("a")[0] == tokenizer.bos_token_id
    assert template.prompt_ids("a")[1] != tokenizer.bos_token_id
    assert Template("plain", tokenizer).closing_id == tokenizer.eos_token_id


def test_the_eos_token_closes_where_the_chat_template_writes_no_token_behind_an_answer(make_tokenizer):
    tokenizer = make_tokenizer(eos_token="<|endoftext|>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    assert Template("chat", tokenizer).closing_id == tokenizer.eos_token_id


def test_a_pad_token_fills_rows_where_there_is_one(make_tokenizer):
    tokenizer = make_tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    assert Template("plain", tokenizer).padding_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_chat_needs_a_chat_template(plain_tokenizer):
    message = (
        r"The template 'chat' needs a tokenizer with a chat template, but this model's tokenizer has none: set "
        r"data\.template to 'plain', or use an instruction-tuned model's tokenizer\."
    )
    with pytest.raises(InputError, match=message):
        Template("chat", plain_tokenizer)


def test_a_tokenizer_needs_an_eos_token(make_tokenizer):
    with pytest.raises(
        InputError, match=r"The tokenizer has no EOS token, so a response could not end: set `eos_token`"
    ):
        Template("plain", make_tokenizer())


def test_unknown_templates_are_refused(tokenizer):
    with pytest.raises(InputError, match="The template must be 'chat' or 'plain', but is 'alpaca': choose one of them"):
        Template("alpaca", tokenizer)


def test_texts_beyond_the_models_maximum_raise_no_warning(make_tokenizer, caplog):
    tokenizer = make_tokenizer(eos_token="<|im_end|>", model_max_length=4)
    Template("plain", tokenizer).prompt_ids("the quick brown fox " * 9)
    assert not caplog.records
