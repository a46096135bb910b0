import json
from contextlib import closing

import numpy as np
import pytest

from atkd_jax.config import Config
from atkd_jax.data import Template
from atkd_jax.sharding import make_mesh
from atkd_jax.training.run_batches import open_batches


@pytest.mark.parametrize("data", [{}, {"packing": False, "train_split": "train[:20]"}], ids=["packed", "one a row"])
def test_the_batches_are_of_the_data_that_the_config_names(examples, tiny_tokenizer, tmp_path, data):
    tree = {"run_dir": tmp_path, "data": {"source": str(examples), "sequence_length": 64} | data}
    config = Config.model_validate(tree | {"training": {"batch_size": 4}})
    pairs = [json.loads(line) for line in examples.read_text().splitlines()][: 20 if data else 40]
    form, counted = Template("chat", tiny_tokenizer), set()
    expected = {tuple(form.response_ids(pair["response"])) for pair in pairs}
    with closing(open_batches(config, tiny_tokenizer, make_mesh())) as batches:
        # An example that fits badly beside others waits a few epochs for its row.
        for _ in range(20 * len(pairs) // 4):
            batch = next(batches)
            assert batch["tokens"].shape == (4, 64)
            for row, mask, segments in zip(batch["tokens"], batch["loss_mask"], batch["segment_ids"], strict=True):
                ids = np.unique(segments[segments > 0])
                assert data == {} or len(ids) == 1
                counted |= {tuple(row[mask.astype(bool) & (segments == number)].tolist()) for number in ids}
    assert counted == expected
