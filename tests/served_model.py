"""A small model behind the forms that vLLM, OpenAI's older interface and llama.cpp answer in."""

import numpy as np


class ServedModel:
    """A model of 10 words whose distribution is a function of the tokens before; it answers `(path, body)`."""

    def __init__(self, vocab_size=10):
        self.vocab_size = vocab_size
        self.asked = []

    def log_probs(self, before):
        """Returns float64 `[vocab]`, of the token after these."""
        seed = sum((place + 1) * (int(token) + 3) for place, token in enumerate(before))
        logits = 2.5 * np.sin(seed + 1.7 * np.arange(self.vocab_size) ** 1.3)
        return logits - np.log(np.exp(logits).sum())

    def answer(self, path, body):
        self.asked.append(body)
        if path.endswith("tokenize"):
            return {"tokens": self.tokenize(body.get("prompt", body.get("content")))}
        if path == "completion":
            return self._llama_cpp(body)
        return self._echo(body) if body.get("echo") else self._vllm(body)

    def tokenize(self, text):
        return [ord(character) % self.vocab_size for character in text]

    def _listed(self, before, count, token=None):
        log_probs = self.log_probs(before)
        words = np.argsort(-log_probs)[:count].tolist()
        if token is not None and token not in words:
            words.append(token)
        return {word: float(log_probs[word]) for word in words}

    def _vllm(self, body):
        tokens, positions = body["prompt"], [None]
        for at in range(1, len(tokens)):
            listed = self._listed(tokens[:at], body["prompt_logprobs"], tokens[at])
            positions.append(
                {
                    str(word): {"logprob": value, "rank": rank + 1, "decoded_token": f"<{word}>"}
                    for rank, (word, value) in enumerate(listed.items())
                }
            )
        return {"choices": [{"text": "", "prompt_logprobs": positions, "prompt_token_ids": tokens}]}

    def _echo(self, body):
        tokens = body["prompt"]
        top, own = [None], [None]
        for at in range(1, len(tokens)):
            top.append(
                {f"token_id:{word}": value for word, value in self._listed(tokens[:at], body["logprobs"]).items()}
            )
            own.append(float(self.log_probs(tokens[:at])[tokens[at]]))
        names = [f"token_id:{token}" for token in tokens]
        return {"choices": [{"text": "", "logprobs": {"tokens": names, "token_logprobs": own, "top_logprobs": top}}]}

    def _llama_cpp(self, body):
        listed = self._listed(body["prompt"], body["n_probs"])
        top = [{"id": word, "token": f"<{word}>", "bytes": [], "logprob": value} for word, value in listed.items()]
        return {"content": "", "completion_probabilities": [top[0] | {"top_logprobs": top}]}
