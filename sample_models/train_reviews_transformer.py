"""Train reviews_transformer: is a review sentence positive, by the ratings that vaderSentiment carries."""

from __future__ import annotations

import math
import re
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

NAME = "reviews_transformer"
PACKAGE = "vaderSentiment==3.3.2"
REVIEWS, OTHERS = ("movieReviewSnippets", "amazonReviewSnippets"), ("tweets", "nytEditorialSnippets")
NEUTRAL = 0.5  # sentences whose mean rating (-4..4) is nearer to 0 than this are left out of the evaluation
LENGTH, VOCABULARY = 48, 3000
EVALUATION, VALIDATION, CALIBRATION = 1000, 500, 256
EPOCHS, BATCH, RATE, DECAY = 8, 64, 1e-3, 0.05
PAD, UNKNOWN = "[PAD]", "[UNK]"
WORD = re.compile(r"[a-z0-9]+|'+[a-z]*|[^\sa-z0-9]")


class Layer(nn.Module):
    """One pre-norm Transformer encoder layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(0.2)

    def split(self, x: Tensor) -> Tensor:
        """Turn [batch, sequence, width] into [batch, heads, sequence, size]."""
        return x.view(x.size(0), x.size(1), self.heads, self.size).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Apply the layer; `bias` is added to the attention scores."""
        y = self.norm1(x)
        q, k, v = self.split(self.query(y)), self.split(self.key(y)), self.split(self.value(y))
        weights = self.dropout(torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(self.size) + bias, dim=-1))
        mixed = (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.dropout(self.output(mixed))
        out: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return out


class ReviewsTransformer(nn.Module):
    """Logits of (negative, positive) from token ids and their mask, both [batch, sequence]."""

    def __init__(self, tokens: int, width: int = 128, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(tokens, width), nn.Embedding(64, width)
        nn.init.normal_(self.tokens.weight, std=0.05)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits: the final states of the real tokens are averaged."""
        mask = attention_mask.to(self.classifier.weight.dtype)
        bias = (1.0 - mask)[:, None, None, :] * -1e4
        places = torch.arange(input_ids.size(1), device=input_ids.device)
        x = self.dropout(self.tokens(input_ids) + self.positions(places))
        for layer in self.layers:
            x = layer(x, bias)
        pooled = (self.norm(x) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


class Tokenizer:
    """Greedy longest-match pieces; the pieces come from byte-pair merges of the training words' letters."""

    def __init__(self, words: Counter[str], size: int) -> None:
        split = {w: [w[0], *("##" + c for c in w[1:])] for w in words}
        letters = Counter(p for w, parts in split.items() for p in parts for _ in range(words[w]))
        pieces = [PAD, UNKNOWN, *sorted(p for p, n in letters.items() if n >= 5)]
        pairs: Counter[tuple[str, str]] = Counter()
        places: dict[tuple[str, str], set[str]] = defaultdict(set)
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
                places[pair].add(word)
        while len(pieces) < size:
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            merged = best[0] + best[1].removeprefix("##")
            pieces.append(merged)
            for word in sorted(places.pop(best)):
                old, new = split[word], list[str]()
                for part in old:
                    if new and (new[-1], part) == best:
                        new[-1] = merged
                    else:
                        new.append(part)
                split[word] = new
                for pair in pairwise(old):
                    pairs[pair] -= words[word]
                for pair in pairwise(new):
                    pairs[pair] += words[word]
                    places[pair].add(word)
            del pairs[best]
        self.pieces = list(dict.fromkeys(pieces))
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        """Return the ids of the pieces of `text`, at most LENGTH."""
        found = []
        for word in WORD.findall(text.lower()):
            first = 0
            while first < len(word):
                prefix = "##" if first else ""
                ends = range(len(word), first, -1)
                last = next((i for i in ends if prefix + word[first:i] in self.ids), first + 1)
                found.append(self.ids.get(prefix + word[first:last], self.ids[UNKNOWN]))
                first = last
        return found[:LENGTH]


def table(folder: Path, name: str) -> list[list[str]]:
    """Read the fields of a tab-delimited file of the package."""
    text = next(folder.rglob(name)).read_text(encoding="utf-8", errors="replace")
    return [line.split("\t") for line in text.splitlines()]


def load(folder: Path, names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Read the rated sentences as (text, mean rating), each once."""
    rows = [row for name in names for row in table(folder, f"{name}_GroundTruth.txt")]
    return sorted({text.strip(): float(rating) for _, rating, text in rows}.items())


def pad(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and the mask, both [samples, LENGTH]."""
    ids, mask = np.zeros((2, len(rows), LENGTH), np.int64)
    for row, some in enumerate(rows):
        ids[row, : len(some)], mask[row, : len(some)] = some, 1
    return ids, mask


def soft(ratings: list[float]) -> Tensor:
    """Turn ratings into the probabilities of (negative, positive) that the model is to give."""
    positive = torch.sigmoid(1.5 * torch.tensor(ratings))
    return torch.stack([1 - positive, positive], dim=1)


def main() -> None:
    """Fetch, split, train, export and save."""
    rng = common.start()
    folder = common.fetch_pypi(PACKAGE, sdist=True)
    for archive in folder.rglob("hutto_ICWSM_2014.tar.gz"):
        common.unpack(archive, archive.parent)
    reviews = load(folder, REVIEWS)
    reviews = [reviews[i] for i in rng.permutation(len(reviews))]
    clear = [pair for pair in reviews if abs(pair[1]) >= NEUTRAL]
    held, valid = clear[:EVALUATION], clear[EVALUATION : EVALUATION + VALIDATION]
    seen = {text for text, _ in held + valid}
    train = [pair for pair in reviews + load(folder, OTHERS) if pair[0] not in seen]
    words = Counter(w for text, _ in train for w in WORD.findall(text.lower()))
    train += [(word, float(r)) for word, r, *_ in table(folder, "vader_lexicon.txt") if word.isalpha()]
    tokenizer = Tokenizer(words, VOCABULARY)
    (common.HERE / f"{NAME}.vocab.txt").write_text("\n".join(tokenizer.pieces) + "\n", encoding="utf-8")

    rows = [tokenizer.encode(text) for text, _ in train]
    (ids, mask), y = pad(rows), soft([rating for _, rating in train])
    x, m = torch.from_numpy(ids), torch.from_numpy(mask)
    valid_x, valid_m = (torch.from_numpy(a) for a in pad([tokenizer.encode(text) for text, _ in valid]))
    valid_y = torch.tensor([int(rating > 0) for _, rating in valid])
    model = ReviewsTransformer(len(tokenizer.pieces))
    print(f"{len(train)} training sentences, {common.parameter_count(model)} parameters", flush=True)
    schedule = common.Schedule(model, RATE, EPOCHS * (len(train) // BATCH), DECAY)
    began = time.monotonic()
    for epoch in range(EPOCHS):
        for index in common.batches(len(train), BATCH):
            width = int(m[index].sum(1).max())
            some, some_mask = x[index, :width], m[index, :width]
            hidden = (torch.rand(some.shape) < 0.1) & (some_mask == 1)
            some = some.masked_fill(hidden, tokenizer.ids[UNKNOWN])
            schedule.step(functional.cross_entropy(model(some, some_mask), y[index]))
        common.report(epoch, began, common.accuracy(model, (valid_x, valid_m), valid_y))

    common.export(NAME, model, {"input_ids": x[:2], "attention_mask": m[:2]}, ["batch", "sequence"])
    calibration = {"input_ids": ids[:CALIBRATION], "attention_mask": mask[:CALIBRATION]}
    held_ids, held_mask = pad([tokenizer.encode(text) for text, _ in held])
    evaluation = {"input_ids": held_ids, "attention_mask": held_mask}
    common.save_sets(NAME, calibration, evaluation, np.asarray([rating > 0 for _, rating in held]))


if __name__ == "__main__":
    main()
