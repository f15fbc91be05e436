import random
import sys
from itertools import combinations
from subprocess import run

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.near_duplicates import is_near_copy, jaccard, normalise, similar_pairs, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  What IS  this?! ", "what is this"),
        ("−5°C is colder than -4.5 °C", "− 5 ° c is colder than -4.5 ° c"),
        ("Wait 5-10 min; 1,000 m", "wait 5-10 min 1,000 m"),
        ("x < 5 + y", "x < 5 + y"),
        ("the car’s 12V battery", "the car's 12v battery"),
        ("沸騰させる。", "沸 騰 さ せ る"),
        ("?!", "?!"),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@given(st.text())
def test_normalise_is_idempotent_enough_for_keys(text):
    assert normalise(normalise(text)).split() == normalise(normalise(normalise(text))).split()
    assert words(text)


@pytest.mark.parametrize(
    ("left", "right", "near"),
    [
        ("Rinse the cut with clean water.", "rinse the cut, with clean water", True),
        ("Add 3 cups of flour.", "Add 4 cups of flour.", False),
        ("Multiply by 9/5 and add 32.", "Multiply by 5/9 and add 32.", False),
        ("You should move the injured person now.", "You should not move the injured person now.", False),
        ("Don't remove it, press on it.", "Do remove it, press on it.", False),
        ("Convert Celsius to Fahrenheit", "Convert Fahrenheit to Celsius", False),
        ("Yes.", "No.", False),
    ],
)
def test_near_copies_have_the_same_words_order_numbers_and_negations(left, right, near):
    assert is_near_copy(left, right, min_jaccard=0.9) is near


def _texts(num_texts, seed):
    """Texts of which a third change one or two words of an earlier one."""
    chance = random.Random(seed)
    texts = []
    for _ in range(num_texts):
        chosen = texts[chance.randrange(len(texts))].split() if texts and chance.random() < 0.4 else []
        chosen = chosen or [f"w{int(300 ** chance.random())}" for _ in range(chance.randint(4, 20))]
        for _ in range(chance.randint(0, 2)):
            chosen[chance.randrange(len(chosen))] = f"w{chance.randrange(300)}"
        texts.append(" ".join(chosen))
    return texts


@pytest.mark.parametrize("min_jaccard", [0.7, 0.8, 0.9, 1.0])
def test_the_same_pairs_as_brute_force(min_jaccard):
    texts = _texts(600, seed=3)
    sets = [set(text.split()) for text in texts]
    expected = {
        (later, earlier)
        for earlier, later in combinations(range(len(texts)), 2)
        if len(sets[later] & sets[earlier]) / len(sets[later] | sets[earlier]) >= min_jaccard
    }
    assert len(expected) > 50
    assert set(similar_pairs(texts, words, min_jaccard)) == expected


def test_pairs_of_a_beginning_stay_when_texts_are_appended():
    texts = _texts(600, seed=4)
    whole = [pair for pair in similar_pairs(texts, words, 0.8) if pair[0] < 400]
    assert whole == list(similar_pairs(texts[:400], words, 0.8))
    assert whole == sorted(whole)


def test_a_crowded_band_still_links_every_copy_to_the_first():
    texts = [f"how do i tie this very same old knot {'!' * number}" for number in range(200)]
    later_of_first = {later for later, earlier in similar_pairs(texts, words, 0.8) if earlier == 0}
    assert later_of_first == set(range(1, 200))


def test_other_processes_give_the_same_pairs():
    code = (
        "from data.near_duplicates import *\n"
        "texts = [f'one two three four five w{n % 7} w{n % 3}' for n in range(60)]\n"
        "print(sorted(words('c b a')), list(similar_pairs(texts, words, 0.8)))"
    )
    outputs = {
        run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_crowded_frame_hides_no_near_copy():
    chance = random.Random(1)
    texts = list(
        dict.fromkeys(
            f"how do i w{chance.randrange(40)} the w{chance.randrange(40)} w{chance.randrange(40)}" for _ in range(2000)
        )
    )
    sets = [frozenset(text.split()) for text in texts]
    linked = {later for later, _ in similar_pairs(texts, words, 0.8)}
    expected = {
        later
        for later in range(len(sets))
        if any(len(sets[later] & earlier) / len(sets[later] | earlier) >= 0.8 for earlier in sets[:later])
    }
    assert len(expected) > 300
    assert linked == expected


def test_long_texts_with_another_number_are_no_near_copies():
    text = " ".join(f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(100))
    assert is_near_copy(f"{text} 5 minutes", f"{text} 5 moments", 0.9)
    assert not is_near_copy(f"{text} 5 minutes", f"{text} 50 minutes", 0.9)
    assert not is_near_copy(f"{text} do move", f"{text} never move", 0.9)


def test_jaccard_of_disjoint_sets():
    assert jaccard({"a"}, {"b"}) == 0.0
