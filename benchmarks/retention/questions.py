"""What is asked, and how an answer is read from frozen hidden states.

    phones      which phone is this frame
    words       which of the frequent words is this stretch of a sentence
    speakers    who speaks in this second; voices that the head knows, in other sentences
    intents     what is wanted: the mean over an utterance of an unknown voice
    keywords    which of ten words is this clip, likewise
    letters     the phones of a sentence, by CTC on the last layer, as an error rate

A head is linear: on the last layer alone, or on a learned weighted sum of all, as SUPERB has it. All heads are trained
alike. `reused` puts heads that were trained on the teacher's last layer on a student's, unchanged. So does `hidden`,
which asks for the phone of frames that the transformer does not see but only what is around them: in their place stands
the teacher's mask embedding, and the output layer that the teacher was trained with names the phone. `layer residual`
is the share of the variance of the teacher's layers that a linear map from a student's best layer does not explain, on
voices that nobody has heard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruned_upstream.miniature.phones import SILENCE
from pruned_upstream.training.masking import masked_spans

from .speech import HOP, SAMPLE_RATE, Utterance

# waveforms (S_i,) -> hidden states of each, (layers, T_i, d); `hide` changes the projected features (B, T, d) first
Layers = Callable[..., list[Tensor]]

FRAME = HOP / SAMPLE_RATE  # seconds
FRAMES_APART = 4  # neighbouring frames say nearly the same
WORD_COUNT = 12  # of a word in the training sentences, for it to be asked
PIECE = 1.0  # seconds
TOGETHER = 16  # utterances heard at once
STEPS, BATCH, RATE, DECAY = 300, 1024, 0.01, 1e-4  # of every head,
CTC_STEPS, CTC_BATCH = 200, 16  # and what differs for letters
QUESTIONS = ("phones", "words", "speakers", "intents", "keywords")
HIDDEN_START, HIDDEN_SPAN = 0.065, 10  # of masked prediction, as in training


@dataclass
class Items:
    """Vectors to be named: (N, layers, d) and their labels."""

    vectors: Tensor
    labels: list[str]


@dataclass
class Sentences:
    """Frames of whole sentences, (T, layers, d) each, with the phones spoken in order."""

    frames: list[Tensor]
    phones: list[list[str]]


@dataclass
class Representations:
    """What one model makes of all the speech: question -> (training items, test items)."""

    items: dict[str, tuple[Items, Items]]
    sentences: tuple[Sentences, Sentences]


def represent(layers: Layers, speech: Mapping[str, list[Utterance]]) -> Representations:
    """Hear everything once."""
    heard = {name: list(_states(layers, utterances)) for name, utterances in speech.items()}
    frequent = _frequent_words(speech["sentences/train"])

    def of_sentences(items: Callable[..., Items], asked: str, *options: object) -> tuple[Items, Items]:
        train, test = (items(speech[s], heard[s], *options) for s in ("sentences/train", asked))
        return train, test

    items = {
        "phones": of_sentences(_phones, "sentences/asked"),
        "words": of_sentences(_words, "sentences/asked", frequent),
        "speakers": of_sentences(_pieces, "sentences/known"),
    }
    for kind in ("intents", "keywords"):
        items[kind] = tuple(_means(speech[f"{kind}/{s}"], heard[f"{kind}/{s}"]) for s in ("train", "asked"))
    whole = tuple(
        Sentences([s.transpose(0, 1) for s in heard[split]], [_spoken_phones(u) for u in speech[split]])
        for split in ("sentences/train", "sentences/asked")
    )
    return Representations(items, whole)


@torch.no_grad()
def _states(layers: Layers, utterances: Sequence[Utterance]) -> Iterator[Tensor]:
    """Hidden states (layers, T, d) of each utterance."""
    found: dict[int, Tensor] = {}
    for members, waveforms in _together(utterances):
        found |= zip(members, (states.half() for states in layers(waveforms)), strict=True)  # half the memory
    return (found[i] for i in range(len(utterances)))


def _together(utterances: Sequence[Utterance]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Batches of similar length: numbers of utterances, and their waveforms."""
    waveforms = [utterance.waveform() for utterance in utterances]
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    for start in range(0, len(order), TOGETHER):
        members = order[start : start + TOGETHER]
        yield members, [waveforms[i] for i in members]


class Predictor(NamedTuple):
    """What the teacher predicted hidden phones with: its mask embedding (d,) and its output layer."""

    mask_emb: Tensor
    weight: Tensor
    bias: Tensor
    phones: list[str]


@torch.no_grad()
def hidden_phones(layers: Layers, utterances: Sequence[Utterance], predictor: Predictor) -> tuple[float, float, int]:
    """Of hidden frames: mean cross-entropy in nats, share that is named in per cent, and their number. Phones that the
    predictor does not know are left out."""
    hidden = _hidden(layers, utterances, predictor.mask_emb)
    units = _numbers(hidden.labels, predictor.phones)
    known = units >= 0
    logits = F.linear(hidden.vectors[known, -1].float(), predictor.weight, predictor.bias)  # (N, phones)
    named = (logits.argmax(1) == units[known]).float().mean().item()
    return F.cross_entropy(logits, units[known]).item(), 100 * named, int(known.sum())


def _hidden(layers: Layers, utterances: Sequence[Utterance], mask_emb: Tensor) -> Items:
    """Every other frame of spans that are the same for every model."""
    generator = torch.Generator().manual_seed(0)
    vectors, labels = [], []
    for members, waveforms in _together(utterances):
        spans: list[Tensor] = []

        def hide(projected: Tensor, spans: list[Tensor] = spans) -> Tensor:  # (B, T, d) -> (B, T, d)
            everywhere = torch.ones(projected.shape[:2], dtype=torch.bool)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(1 << 40, (), generator=generator)))
                spans.append(masked_spans(everywhere, HIDDEN_START, HIDDEN_SPAN))
            return torch.where(spans[0].unsqueeze(-1), mask_emb, projected)

        for i, states, is_hidden in zip(members, layers(waveforms, hide=hide), spans[0], strict=True):
            spoken = utterances[i].frame_phones(states.size(1))
            chosen = [t for t in range(0, states.size(1), 2) if is_hidden[t]]
            vectors.append(states[:, chosen].transpose(0, 1).half())
            labels += [spoken[t] for t in chosen]
    return Items(torch.cat(vectors), labels)


def _phones(utterances: Sequence[Utterance], states: Sequence[Tensor]) -> Items:
    vectors, labels = [], []
    for utterance, state in zip(utterances, states, strict=True):
        spoken = utterance.frame_phones(state.size(1))
        for t in range(0, state.size(1), FRAMES_APART):
            if spoken[t] != SILENCE:
                vectors.append(state[:, t])
                labels.append(spoken[t])
    return Items(torch.stack(vectors), labels)


def _words(utterances: Sequence[Utterance], states: Sequence[Tensor], frequent: set[str]) -> Items:
    vectors, labels = [], []
    for utterance, state in zip(utterances, states, strict=True):
        for word in utterance.spoken.words:
            first, last = int(word.start / FRAME), max(int(word.start / FRAME) + 1, int(word.end / FRAME))
            if _plain(word.label) in frequent and first < state.size(1):
                vectors.append(state[:, first:last].float().mean(1))
                labels.append(_plain(word.label))
    return Items(torch.stack(vectors), labels)


def _pieces(utterances: Sequence[Utterance], states: Sequence[Tensor]) -> Items:
    width = round(PIECE / FRAME)
    vectors, labels = [], []
    for utterance, state in zip(utterances, states, strict=True):
        for start in range(0, max(1, state.size(1) - width + 1), width):
            vectors.append(state[:, start : start + width].float().mean(1))
            labels.append(utterance.label)
    return Items(torch.stack(vectors), labels)


def _means(utterances: Sequence[Utterance], states: Sequence[Tensor]) -> Items:
    return Items(torch.stack([state.float().mean(1) for state in states]), [u.label for u in utterances])


def _spoken_phones(utterance: Utterance) -> list[str]:
    return [phone.label.rstrip("012") for phone in utterance.spoken.phones if phone.label != SILENCE]


def _plain(word: str) -> str:
    return "".join(filter(str.isalpha, word.lower()))


def _frequent_words(utterances: Sequence[Utterance]) -> set[str]:
    counts = Counter(_plain(word.label) for utterance in utterances for word in utterance.spoken.words)
    return {word for word, count in counts.items() if count >= WORD_COUNT}


class Head(nn.Module):
    """A linear layer on one layer, or on a learned weighted sum of all, each brought to unit variance first."""

    def __init__(self, vectors: Tensor, outputs: int, *, weighted: bool) -> None:
        super().__init__()
        self.layers = slice(None) if weighted else slice(-1, None)
        chosen = vectors[:, self.layers].float()
        self.register_buffer("mean", chosen.mean(0))
        self.register_buffer("scale", chosen.std(0).clamp(min=1e-5))
        self.weights = nn.Parameter(torch.zeros(chosen.size(1)))
        self.linear = nn.Linear(vectors.size(2), outputs)

    def forward(self, vectors: Tensor) -> Tensor:  # (..., layers, d) -> (..., outputs)
        scaled = (vectors[..., self.layers, :].float() - self.mean) / self.scale
        return self.linear((self.weights.softmax(0).unsqueeze(1) * scaled).sum(-2))


def answer(train: Items, test: Items, *, weighted: bool) -> tuple[float, Head, list[str]]:
    """Accuracy in per cent of a head that is trained on the training items, the head, and the names of its outputs."""
    torch.manual_seed(0)
    names = sorted(set(train.labels))
    head = Head(train.vectors, len(names), weighted=weighted)
    wanted = _numbers(train.labels, names)
    for members in _descend(head, len(wanted), STEPS, BATCH):
        F.cross_entropy(head(train.vectors[members]), wanted[members]).backward()
    return accuracy(head, test, names), head, names


def learn_letters(train: Sentences) -> tuple[Head, list[str]]:
    """A linear CTC head on the last layer, and the names of its outputs but the first, the blank."""
    torch.manual_seed(0)
    names = sorted({phone for phones in train.phones for phone in phones})
    head = Head(torch.cat([frames[::FRAMES_APART] for frames in train.frames]), len(names) + 1, weighted=False)
    targets = [_numbers(phones, names) + 1 for phones in train.phones]
    for members in _descend(head, len(targets), CTC_STEPS, CTC_BATCH):
        chosen = members.tolist()
        scores = nn.utils.rnn.pad_sequence([head(train.frames[i]) for i in chosen])  # (T, B, outputs)
        F.ctc_loss(
            scores.log_softmax(-1),
            torch.cat([targets[i] for i in chosen]),
            torch.tensor([len(train.frames[i]) for i in chosen]),
            torch.tensor([len(targets[i]) for i in chosen]),
            zero_infinity=True,
        ).backward()
    return head, names


@torch.no_grad()
def phone_error_rate(head: Head, test: Sentences, names: Sequence[str]) -> float:
    """Of greedy decoding, in per cent."""
    import editdistance

    errors = total = 0
    for frames, phones in zip(test.frames, test.phones, strict=True):
        best = torch.unique_consecutive(head(frames).argmax(-1))
        errors += editdistance.eval([names[i - 1] for i in best.tolist() if i], phones)
        total += len(phones)
    return 100 * errors / total


def _descend(head: Head, items: int, steps: int, size: int) -> Iterator[Tensor]:
    """Batches of item numbers, drawn with torch's RNG; after each, a step of Adam at a rate that falls to 0."""
    optimiser = torch.optim.Adam(head.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(steps):
        optimiser.zero_grad()
        yield torch.randint(items, (size,))
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimiser.step()


@torch.no_grad()
def accuracy(head: Head, test: Items, names: Sequence[str]) -> float:
    """Share of items that the head names; in per cent. A label that it never saw is an error."""
    found = torch.cat([head(vectors).argmax(1) for vectors in test.vectors.split(BATCH)])
    return 100 * (found == _numbers(test.labels, names)).float().mean().item()


def _numbers(labels: Sequence[str], names: Sequence[str]) -> Tensor:
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number.get(label, -1) for label in labels])


def layer_residual(student: tuple[Items, Items], teacher: tuple[Items, Items], layers: Sequence[int]) -> float:
    """Mean over teacher layers of the variance that is not explained from the student's best layer, in per cent.

    The best layer, and the linear map, are chosen on the training items.
    """
    shares = []
    for k in layers:
        wanted, held_out = teacher[0].vectors[:, k], teacher[1].vectors[:, k]
        maps = [_ridge(student[0].vectors[:, j], wanted) for j in range(student[0].vectors.size(1))]
        errors = [_unexplained(student[0].vectors[:, j], wanted, maps[j]) for j in range(len(maps))]
        j = min(range(len(maps)), key=errors.__getitem__)
        shares.append(_unexplained(student[1].vectors[:, j], held_out, maps[j]))
    return 100 * sum(shares) / len(shares)


def _with_one(vectors: Tensor) -> Tensor:
    return torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1).double()


def _ridge(vectors: Tensor, wanted: Tensor) -> Tensor:
    x = _with_one(vectors)
    penalty = 1e-3 * len(x) * torch.eye(x.size(1), dtype=x.dtype) * x.var(0).mean()
    return torch.linalg.solve(x.T @ x + penalty, x.T @ wanted.double())


def _unexplained(vectors: Tensor, wanted: Tensor, linear: Tensor) -> float:
    wanted = wanted.double()
    residual = wanted - _with_one(vectors) @ linear
    return float(residual.square().sum() / (wanted - wanted.mean(0)).square().sum())
