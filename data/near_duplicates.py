"""Texts that say nearly the same: candidate pairs from MinHash (rensa), then true Jaccard similarity.

A text is a set of words, and its signature 128 MinHashes of which one byte each is kept, so a million texts fit
in memory. Signatures are cut into bands. Two texts that agree in a band and in enough bytes are a candidate pair,
which the caller verifies. Nothing depends on the process: the same texts give the same pairs, and the pairs among
the first n texts stay the same when more texts follow.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

NUM_HASHES = 128
MAX_HASHES_PER_BAND = 8  # bytes of a 64-bit key
MAX_MISS_PROBABILITY = 2e-5  # for a pair just as similar as asked for; a smaller one costs more comparisons
# How many earlier texts of a crowded band a text is compared with, besides the band's first one. Near texts share
# many bands, so what one skips another finds.
MAX_NEIGHBOURS = 64
TEXTS_PER_BATCH = 8192
PAIRS_PER_BATCH = 65_536
_MINHASH_SEED = 1

Signatures = NDArray[np.uint8]  # (num_texts, NUM_HASHES)
Indices = NDArray[np.int64]  # (any number,) of texts

_NUMBER = r"(?<!\w)-?\d+(?:[.,/:-]\d+)*(?!\w)"
# Letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Kana, Han
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = rf"[^\W{_UNSPACED}]+(?:'\w+)*"
_SYMBOL = r"[^\w\s.,;:!?'\"()\[\]{}`*#\u2010-\u201f\u2026\u3001-\u3011-]"
_TOKEN = re.compile("|".join((_NUMBER, _WORD, f"[{_UNSPACED}]", _SYMBOL)))
_PIECE = re.compile(r"[^\W_]+")
# Articles and pointers; be, do and modals; pronouns; prepositions and joiners; question words.
_FUNCTION_WORD_LIST = """
    a an the that this these those there here
    is are was were be been do does did can could should would will shall may might must
    i you we he she it they me my your our their his her its
    of in on at to for from by with as and or if so
    what which who how when where why
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())
_NEGATIONS = frozenset(["no", "not", "never", "none", "nor", "cannot", "without", "unless", "except", "avoid"])


def normalise(text: str) -> str:
    """Reduce a text to lower-case words, numbers and symbols with one space between, without punctuation.

    Numbers stay whole; each letter of a language written without spaces counts as a word.

    >>> normalise("Add 1/2 cup -- at 75°F, don't stir!")
    "add 1/2 cup at 75 ° f don't stir"
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return " ".join(_TOKEN.findall(folded)) or text.strip()


def words(text: str) -> frozenset[str]:
    """Return the different words of a text.

    >>> sorted(words("The knot, the rope."))
    ['knot', 'rope', 'the']
    """
    return frozenset(normalise(text).split(" "))


def word_pieces(text: str) -> frozenset[str]:
    """Return the runs of letters and digits: decimals, fractions and words with an apostrophe fall apart.

    >>> sorted(word_pieces("It's 3.5 cups"))
    ['3', '5', 'cups', 'it', 's']
    """
    return frozenset(_PIECE.findall(normalise(text))) or words(text)


def content_words(text: str) -> frozenset[str]:
    """Return the words that carry the meaning, without English articles, pronouns, prepositions and question words.

    >>> sorted(content_words("How do I treat a nosebleed?"))
    ['nosebleed', 'treat']
    """
    every_word = words(text)
    return every_word - _FUNCTION_WORDS or every_word


def jaccard(left: AbstractSet[str], right: AbstractSet[str]) -> float:
    """Measure how much of two sets is common: 1.0 for equal sets, 0.0 for disjoint ones.

    >>> jaccard({"tie", "a", "knot"}, {"tie", "the", "knot"})
    0.5
    """
    num_common = len(left & right)
    return num_common / (len(left) + len(right) - num_common)


def is_near_copy(left: str, right: str, min_jaccard: float) -> bool:
    """Say whether two texts are the same in nearly all words and their order, and in all numbers and negations.

    >>> is_near_copy("Boil it for 1 minute.", "boil it for 1 minute", 0.9)
    True
    >>> is_near_copy("Boil it for 1 minute.", "Boil it for 3 minutes.", 0.0)
    False
    """
    left_words, right_words = normalise(left).split(" "), normalise(right).split(" ")
    if list(filter(_changes_meaning, left_words)) != list(filter(_changes_meaning, right_words)):
        return False
    return jaccard(_phrases(left_words), _phrases(right_words)) >= min_jaccard


def _changes_meaning(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't") or any(map(str.isdigit, word))


def _phrases(words_in_order: Sequence[str]) -> frozenset[str]:
    """The words, and each two that stand side by side.

    >>> sorted(_phrases(["left", "over", "right"]))
    ['left', 'left over', 'over', 'over right', 'right']
    """
    return frozenset(words_in_order) | {f"{first} {second}" for first, second in pairwise(words_in_order)}


def similar_pairs(
    texts: Sequence[str], words_of: Callable[[str], AbstractSet[str]], min_jaccard: float
) -> Iterator[tuple[int, int]]:
    """Find the pairs (later, earlier) of texts whose word sets have at least that Jaccard similarity.

    >>> list(similar_pairs(["Why tie a knot?", "Whip cream.", "Why tie a... knot"], words, 0.8))
    [(2, 0)]
    """
    cached_words_of = lru_cache(maxsize=100_000)(words_of)
    for later, earlier in candidate_pairs(signatures(map(words_of, texts)), min_jaccard):
        if jaccard(cached_words_of(texts[later]), cached_words_of(texts[earlier])) >= min_jaccard:
            yield later, earlier


def signatures(word_sets: Iterable[AbstractSet[str]]) -> Signatures:
    """Take a byte of each MinHash, uint8 (num_texts, 128): two texts agree in each with their Jaccard's probability."""
    remaining = iter(word_sets)
    batches = [np.empty((0, NUM_HASHES), np.uint8)]
    while batch := list(map(list, islice(remaining, TEXTS_PER_BATCH))):
        hashes = RMinHash.digest_matrix_from_token_sets(batch, NUM_HASHES, _MINHASH_SEED).to_rows()
        batches.append(np.array(hashes, np.uint32).astype(np.uint8))
    return np.concatenate(batches)


@dataclass(frozen=True)
class Banding:
    """A banding says how signatures are cut into bands, and how many equal bytes make a pair worth comparing."""

    hashes_per_band: tuple[int, ...]  # one number per cut
    min_equal_bytes: int


def banding_for(min_jaccard: float) -> Banding:
    """Choose the cut with the longest bands that misses a pair of that similarity seldom enough, and the finest cut.

    The finest cut finds pairs of nearly equal texts in bands that are too crowded in the other one.

    >>> banding_for(0.8)
    Banding(hashes_per_band=(4, 8), min_equal_bytes=82)
    """
    safe = max(
        size
        for size in range(1, MAX_HASHES_PER_BAND + 1)
        if size == 1 or (1 - min_jaccard**size) ** (NUM_HASHES // size) <= MAX_MISS_PROBABILITY
    )
    return Banding(tuple(sorted({safe, MAX_HASHES_PER_BAND})), _min_equal_bytes(min_jaccard))


def _min_equal_bytes(min_jaccard: float) -> int:
    """The binomial quantile: texts of that similarity agree in fewer bytes with MAX_MISS_PROBABILITY at most."""
    miss_probability = 0.0
    for num_equal in range(NUM_HASHES + 1):
        ways = comb(NUM_HASHES, num_equal)
        miss_probability += ways * min_jaccard**num_equal * (1 - min_jaccard) ** (NUM_HASHES - num_equal)
        if miss_probability > MAX_MISS_PROBABILITY:
            return num_equal
    return NUM_HASHES


@dataclass(frozen=True)
class Candidates:
    """These pairs (later, earlier) of texts are worth comparing, sorted by the later text, then by the earlier one."""

    pairs: NDArray[np.int64]  # (num_pairs, 2)
    num_skipped: int  # comparisons not made in bands shared by more than MAX_NEIGHBOURS texts

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for start in range(0, len(self.pairs), PAIRS_PER_BATCH):
            yield from map(tuple, self.pairs[start : start + PAIRS_PER_BATCH].tolist())


def candidate_pairs(signatures: Signatures, min_jaccard: float) -> Candidates:
    """Find the pairs of texts that agree in some band, and in as many bytes as texts of that similarity do."""
    num_texts, num_skipped = len(signatures), 0
    banding = banding_for(min_jaccard)
    found = np.empty(0, np.int64)  # pairs as later text * num_texts + earlier text
    for keys in _band_keys(signatures, banding):
        order = np.argsort(keys, kind="stable")
        num_skipped += _count_skipped(keys)
        similar = [found]
        for later, earlier in _band_pairs(order, keys[order]):
            num_equal_bytes = (signatures[later] == signatures[earlier]).sum(axis=1, dtype=np.uint8)
            agree = num_equal_bytes >= banding.min_equal_bytes
            similar.append(later[agree] * num_texts + earlier[agree])
        found = _sorted_unique(np.concatenate(similar))
    return Candidates(np.stack(np.divmod(found, max(num_texts, 1)), axis=1), num_skipped)


def _sorted_unique(values: Indices) -> Indices:
    """np.unique by sorting; NumPy 2.4 hashes, which took 20 times as long on codes of pairs."""
    ascending = np.sort(values)
    return ascending[np.diff(ascending, prepend=-1) > 0]


def _band_keys(signatures: Signatures, banding: Banding) -> Iterator[NDArray[np.uint64]]:
    """For each band of each cut its bytes as one number, uint64 (num_texts,)."""
    for size in banding.hashes_per_band:
        for start in range(0, NUM_HASHES - size + 1, size):
            padded = np.zeros((len(signatures), MAX_HASHES_PER_BAND), np.uint8)
            padded[:, :size] = signatures[:, start : start + size]
            yield padded.view("<u8")[:, 0]


def _band_pairs(order: Indices, sorted_keys: NDArray[np.uint64]) -> Iterator[tuple[Indices, Indices]]:
    """Each text with the nearest earlier texts that share its key, and with the first one that does."""
    for distance in range(1, MAX_NEIGHBOURS + 1):
        shared = np.flatnonzero(sorted_keys[distance:] == sorted_keys[:-distance])
        if len(shared) == 0:
            return
        yield order[shared + distance], order[shared]
    first = np.searchsorted(sorted_keys, sorted_keys, side="left")
    far = np.flatnonzero(np.arange(len(order)) - first > MAX_NEIGHBOURS)
    yield order[far], order[first[far]]


def _count_skipped(keys: NDArray[np.uint64]) -> int:
    """How many pairs with a shared key lie farther apart than `_band_pairs` looks."""
    _, sizes = np.unique_counts(keys)
    beyond = np.maximum(sizes.astype(np.int64) - MAX_NEIGHBOURS - 1, 0)
    return int((beyond * (beyond - 1) // 2).sum())
