"""Train the demo model: `python -m inference.demo.train`, in the root of the source.

Its requirements are in `requirements-train.txt` beside this file, for an environment of its own:

    python3.11 -m venv /tmp/train
    /tmp/train/bin/pip install -r inference/demo/requirements-train.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu
    /tmp/train/bin/python -m inference.demo.train

Writes `inference/demo/model/` and prints the loss, the share of the taught questions that are
answered word for word, and the same share for questions in words that were not taught. The seed
is fixed; other versions of torch or another CPU may still give slightly other weights. Bring the
figures in `model/README.md` up to date afterwards.
"""

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inference.demo import MODEL_PATH
from inference.demo.corpus import (
    LANGUAGES,
    Pair,
    as_typed_in_a_hurry,
    held_out_pairs,
    pairs,
    topics,
)
from inference.demo.rewording import reword

SEED = 20261120
CONTEXT = 2048
VOCABULARY = 2048
END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

# Rows × tokens of a batch. Documents follow each other in a row as the turns of a chat do, so
# that the long rows teach the model not to be confused by what was said before.
SHAPES = ((32, 256), (32, 256), (32, 256), (8, 1024))
CHAT_SHARE = 2 / 3
PEAK_LEARNING_RATE = 5e-3

# How much a token counts in the loss. Which answer it is to be is decided by its first tokens;
# the rest of it is soon known by heart, and would drown them.
PROMPT, OPENING, REST = 0.0, 4.0, 1.0
OPENING_TOKENS = 12

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Be concise.",
    "你是樂於助人的助理。",
    "請用繁體中文簡短回答。",
    "你是一个乐于助人的助手。",
    "请简短回答。",
    "あなたは親切なアシスタントです。",
    "短く答えてください。",
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role in ['system', 'developer'] -%}<|system|>"
    "{%- elif message.role == 'assistant' -%}<|assistant|>"
    "{%- else -%}<|user|>{%- endif -%}"
    "{{- (message.content or '') | trim -}}<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def main() -> None:
    options = _options()
    torch.manual_seed(SEED)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)

    tokenizer = train_tokenizer()
    model = LlamaForCausalLM(_config(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(pairs()):,} questions")
    seconds = train(model, Teacher(tokenizer, random.Random(SEED)), options.steps)  # noqa: S311
    print(f"trained in {seconds:.0f} s")

    model.to(torch.bfloat16)
    save(model, tokenizer, options.output)
    model.to(torch.float32)  # as rounded by what was saved
    report("taught", model, tokenizer, pairs())
    report("not taught", model, tokenizer, held_out_pairs())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=MODEL_PATH)
    return parser.parse_args()


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE: no text is ever out of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in (PAD, END, *ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _texts() -> Iterator[str]:
    for language in LANGUAGES:
        for topic in topics(language):
            yield from topic.questions
            yield from [topic.answer] * 3  # short in answers, where it is waited for


def _config(tokenizer: Tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )


class Teacher:
    """Makes the rows: chats, of which only the answers are learned, and prose, learned whole."""

    def __init__(self, tokenizer: Tokenizer, rng: random.Random) -> None:
        self._tokenizer = tokenizer
        self._rng = rng
        self._pairs = pairs()
        self._guides = {
            language: [topic.answer for topic in topics(language)] for language in LANGUAGES
        }
        self._held_out = {as_typed_in_a_hurry(pair.question) for pair in held_out_pairs()}

    def batch(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and their weights in the loss, each rows × length."""
        filled = [self._row(length) for _ in range(rows)]
        return torch.tensor([ids for ids, _ in filled]), torch.tensor([w for _, w in filled])

    def _row(self, length: int) -> tuple[list[int], list[float]]:
        document = self._chat if self._rng.random() < CHAT_SHARE else self._prose
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            more_ids, more_weights = document()
            ids += more_ids
            weights += more_weights
        return ids[:length], weights[:length]

    def _chat(self) -> tuple[list[int], list[float]]:
        pair = self._rng.choice(self._pairs)
        system = self._rng.choice(SYSTEM_PROMPTS) if self._rng.random() < 0.2 else None
        prompt = prompt_ids(self._tokenizer, self._question(pair), system)
        answer = answer_ids(self._tokenizer, pair.answer)
        opening = min(OPENING_TOKENS, len(answer))
        weights = [PROMPT] * len(prompt) + [OPENING] * opening + [REST] * (len(answer) - opening)
        return prompt + answer, weights

    def _question(self, pair: Pair) -> str:
        question = reword(pair.question, pair.language, self._rng)
        held_out = as_typed_in_a_hurry(question) in self._held_out
        return pair.question if held_out else question

    def _prose(self) -> tuple[list[int], list[float]]:
        answers = self._guides[self._rng.choice(LANGUAGES)]
        first = self._rng.randrange(len(answers))
        text = "\n".join(answers[first : first + self._rng.randint(2, 8)])
        ids = answer_ids(self._tokenizer, text)
        return ids, [REST] * len(ids)


def prompt_ids(tokenizer: Tokenizer, question: str, system: str | None = None) -> list[int]:
    """What the chat template makes of one question; save() checks that it is the same."""
    before = f"<|system|>{system}{END}" if system else ""
    return tokenizer.encode(f"{before}<|user|>{question}{END}<|assistant|>").ids


def answer_ids(tokenizer: Tokenizer, answer: str) -> list[int]:
    return tokenizer.encode(answer + END).ids


def train(model: LlamaForCausalLM, teacher: Teacher, steps: int) -> float:
    """Returns the seconds that it took."""
    started = time.monotonic()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, steps)
        loss = _loss(model, *teacher.batch(*SHAPES[step % len(SHAPES)]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            elapsed = time.monotonic() - started
            print(f"step {step:4} loss {loss.item():.4f} {elapsed:.0f} s", flush=True)
    return time.monotonic() - started


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    weights = weights[:, 1:].flatten()
    losses = functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
    return (losses * weights).sum() / weights.sum()


def _learning_rate(step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / 30)
    return PEAK_LEARNING_RATE * warm_up * 0.5 * (1.02 + 0.98 * math.cos(math.pi * step / steps))


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # engines run as another user
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_config())
    _add_former_names(folder / "config.json")
    _check_template(folder, tokenizer)


def _tokenizer_config() -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _add_former_names(path: Path) -> None:
    """Engines older than transformers 5 read these."""
    config = json.loads(path.read_text())
    config["torch_dtype"] = config["dtype"]
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    _write(path, config)


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_template(folder: Path, tokenizer: Tokenizer) -> None:
    saved = PreTrainedTokenizerFast.from_pretrained(folder)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    text = saved.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    if saved.encode(text) != prompt_ids(tokenizer, "Hello", "Be brief."):
        raise SystemExit("The chat template does not make what the model was trained on.")


@torch.no_grad()
def report(name: str, model: LlamaForCausalLM, tokenizer: Tokenizer, asked: list[Pair]) -> None:
    model.eval()
    total = Counter(pair.language for pair in asked)
    right = Counter(p.language for p in asked if _answers_word_for_word(model, tokenizer, p))
    for language in LANGUAGES:
        print(f"{name:10} {language:8} {right[language]:4} of {total[language]}")
    share = right.total() / total.total()
    print(f"{name:10} {'all':8} {right.total():4} of {total.total()} ({share:.1%})")


def _answers_word_for_word(model: LlamaForCausalLM, tokenizer: Tokenizer, pair: Pair) -> bool:
    """Whether greedy decoding would give the answer and stop.

    It would if, after every right beginning of the answer, the likeliest token is the right one;
    that takes one pass where decoding takes one for each token.
    """
    prompt = prompt_ids(tokenizer, pair.question)
    answer = answer_ids(tokenizer, pair.answer)
    likeliest = model(torch.tensor([prompt + answer])).logits[0].argmax(-1)
    return likeliest[len(prompt) - 1 : -1].tolist() == answer


if __name__ == "__main__":
    main()
