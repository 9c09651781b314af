"""A small neural language model from text: a GPT of Hugging Face transformers over pieces of words.

For ranking the transcripts of a beam search anew where no large model is at hand; the folder is as any other model's.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from jasper_ray.config.strict import StrictModel
from jasper_ray.decoding.rescoring import require_transformers
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store

EDGE = "<s>"
"""Stands before and behind every sentence."""
WARMUP_SHARE = 0.05
MAX_GRAD_NORM = 1.0
POSITIONS = 1024


class NeuralConfig(StrictModel):
    """Size of the model and how it is trained."""

    num_pieces: int = Field(2000, ge=32)
    """Pieces of words (byte pair encoding) in the vocabulary."""
    layers: int = Field(3, ge=1)
    """Transformer layers."""
    width: int = Field(192, ge=16)
    """Channels."""
    heads: int = Field(4, ge=1)
    """Attention heads; they share out the width."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout everywhere."""
    block_tokens: int = Field(128, ge=8, le=POSITIONS)
    """Tokens that are read at a time in training."""
    batch_blocks: int = Field(32, ge=1)
    """Blocks of an optimizer step."""
    epochs: int = Field(3, ge=1)
    """Times that the text is read."""
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate of AdamW."""
    held_out: int = Field(300, ge=1)
    """Lines that are not learnt from but measured on."""
    seed: int = Field(0, ge=0)
    """Of every draw."""


@dataclass(frozen=True)
class NeuralFigures:
    """What came out of a training."""

    num_parameters: int
    num_tokens: int
    """Of the text, with the edges of sentences."""
    loss: float
    """Natural log per token of the lines that were held out."""
    perplexity: float
    """Per word of these lines, their ends counted as words: what n-gram tools call perplexity."""


def train_neural_model(
    lines: Sequence[str], uri: str, config: NeuralConfig, *, device: str, report: Callable[[int, int, float], None]
) -> NeuralFigures:
    """Train a model on normalised text and write its folder.

    Args:
        lines: A sentence each; every so-manieth is held out.
        uri: Folder to write, local or on a store.
        config: Size and training.
        device: cpu or cuda.
        report: Told step, number of steps and loss from time to time.

    Raises:
        ConfigError: transformers is not installed.
        DataError: There is too little text.
    """
    transformers = require_transformers()
    sentences = [" ".join(line.split()) for line in lines if line.strip()]
    every = len(sentences) // config.held_out
    if every < 2:
        raise DataError(f"{len(sentences)} lines are too few: {config.held_out} of them are to be held out")
    held_out, learnt = sentences[::every][: config.held_out], [s for i, s in enumerate(sentences) if i % every]
    tokenizer = _train_tokenizer(transformers, learnt, config)
    torch.manual_seed(config.seed)
    model = transformers.GPT2LMHeadModel(_shape(transformers, tokenizer, config)).to(device)
    stream = _stream(tokenizer, learnt)
    _train(model, stream, config, device, report)
    loss_sum, num_tokens = _measure(model, tokenizer, held_out, device)
    num_words = sum(len(sentence.split()) + 1 for sentence in held_out)
    with tempfile.TemporaryDirectory(prefix="jasper-neural-") as name:
        model.save_pretrained(name)
        tokenizer.save_pretrained(name)
        object_store.upload_folder(Path(name), uri, last="config.json")
    return NeuralFigures(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_tokens=len(stream),
        loss=loss_sum / num_tokens,
        perplexity=math.exp(loss_sum / num_words),
    )


def _train_tokenizer(transformers: Any, sentences: Sequence[str], config: NeuralConfig) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.num_pieces,
        special_tokens=[EDGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(sentences, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token=EDGE, eos_token=EDGE)


def _shape(transformers: Any, tokenizer: Any, config: NeuralConfig) -> Any:
    edge = tokenizer.bos_token_id
    return transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        bos_token_id=edge,
        eos_token_id=edge,
    )


def _stream(tokenizer: Any, sentences: Sequence[str]) -> Tensor:
    """All sentences in a row, an edge before each and behind the last."""
    edge = tokenizer.bos_token_id
    ids = [edge]
    for encoded in tokenizer(list(sentences), add_special_tokens=False)["input_ids"]:
        ids += [*encoded, edge]
    return torch.tensor(ids)


def _train(
    model: Any, stream: Tensor, config: NeuralConfig, device: str, report: Callable[[int, int, float], None]
) -> None:
    """AdamW over blocks cut from the stream at a random offset each epoch, warm-up and half a cosine."""
    generator = torch.Generator().manual_seed(config.seed)
    length, size = config.block_tokens, config.batch_blocks
    if len(stream) < 2 * length + 1:
        raise DataError(f"{len(stream)} tokens of text are too few for blocks of {length}")
    steps_per_epoch = max(1, ((len(stream) - 1) // length - 1) // size)
    num_steps = config.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    step = 0
    for _ in range(config.epochs):
        offset = int(torch.randint(length, (1,), generator=generator))
        starts = torch.arange(offset, len(stream) - length - 1, length)
        order = starts[torch.randperm(len(starts), generator=generator)].tolist()
        for number in range(steps_per_epoch):
            rows = order[number * size : (number + 1) * size]
            for group in optimizer.param_groups:
                group["lr"] = config.lr * _rate(step, num_steps)
            blocks = torch.stack([stream[row : row + length + 1] for row in rows]).to(device)
            logits = model(input_ids=blocks[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            step += 1
            if step % 50 == 0 or step == num_steps:
                report(step, num_steps, float(loss.detach()))


def _rate(step: int, num_steps: int) -> float:
    warmup = max(1, int(WARMUP_SHARE * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


@torch.inference_mode()
def _measure(model: Any, tokenizer: Any, sentences: Sequence[str], device: str) -> tuple[float, int]:
    """Summed loss of sentences, each by itself, and their tokens."""
    model.eval()
    total, count = 0.0, 0
    for sentence in sentences:
        ids = _stream(tokenizer, [sentence])[: POSITIONS + 1].to(device)
        logits = model(input_ids=ids[None, :-1]).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
        count += len(ids) - 1
    return total, count
