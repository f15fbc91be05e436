"""Unit conversions in plain text: was the number that a question asks for stated in the answer? Units are pint's."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pint

TOLERANCE = 0.01
"""A number counts as right within this share of the exact one; answers round."""

_WORDS = {
    "a": 1,
    "an": 1,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "half a": 0.5,
    "half an": 0.5,
}
_FRACTIONS = {"½": 0.5, "¼": 0.25, "¾": 0.75, "⅓": 1 / 3, "⅔": 2 / 3, "⅛": 0.125}
_UNITS = {
    **dict.fromkeys(("cup", "cups"), "cup"),
    **dict.fromkeys(("tablespoon", "tablespoons", "tbsp"), "tablespoon"),
    **dict.fromkeys(("teaspoon", "teaspoons", "tsp"), "teaspoon"),
    **dict.fromkeys(("fluid ounce", "fluid ounces", "fl oz"), "fluid_ounce"),
    **dict.fromkeys(("ounce", "ounces", "oz"), "ounce"),
    **dict.fromkeys(("pint", "pints"), "pint"),
    **dict.fromkeys(("quart", "quarts"), "quart"),
    **dict.fromkeys(("gallon", "gallons"), "gallon"),
    **dict.fromkeys(("liter", "liters", "litre", "litres", "l"), "liter"),
    **dict.fromkeys(("deciliter", "deciliters", "dl"), "deciliter"),
    **dict.fromkeys(("milliliter", "milliliters", "millilitre", "millilitres", "ml"), "milliliter"),
    **dict.fromkeys(("gram", "grams", "g"), "gram"),
    **dict.fromkeys(("kilogram", "kilograms", "kilo", "kilos", "kg"), "kilogram"),
    **dict.fromkeys(("pound", "pounds", "lb", "lbs"), "pound"),
    **dict.fromkeys(("inch", "inches"), "inch"),
    **dict.fromkeys(("foot", "feet", "ft"), "foot"),
    **dict.fromkeys(("yard", "yards", "yd"), "yard"),
    **dict.fromkeys(("mile", "miles"), "mile"),
    **dict.fromkeys(("millimeter", "millimeters", "millimetre", "millimetres", "mm"), "millimeter"),
    **dict.fromkeys(("centimeter", "centimeters", "centimetre", "centimetres", "cm"), "centimeter"),
    **dict.fromkeys(("meter", "meters", "metre", "metres", "m"), "meter"),
    **dict.fromkeys(("kilometer", "kilometers", "kilometre", "kilometres", "km"), "kilometer"),
    **dict.fromkeys(("mph", "miles per hour"), "mile / hour"),
    **dict.fromkeys(("km/h", "kilometers per hour", "kilometres per hour", "kph"), "kilometer / hour"),
    **dict.fromkeys(("°f", "degrees fahrenheit", "fahrenheit"), "degF"),
    **dict.fromkeys(("°c", "degrees celsius", "celsius"), "degC"),
    **dict.fromkeys(("psi",), "psi"),
    **dict.fromkeys(("bar",), "bar"),
    **dict.fromkeys(("kpa",), "kilopascal"),
    **dict.fromkeys(("hour", "hours"), "hour"),
    **dict.fromkeys(("minute", "minutes"), "minute"),
}
_QUANTITY = re.compile(
    r"(?<![\w.,/])(?P<sign>[-−])?(?:(?P<number>\d[\d,]*(?:\.\d+)?)?\s?(?P<fraction>[" + "".join(_FRACTIONS) + r"])?"
    r"(?P<over>(?<=\d)/\d+)?|(?P<word>" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")\b)"
    r"(?:\s|-)?(?:US |metric |imperial )?(?P<unit>"
    + "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))
    + r")(?![\w/])",
    re.IGNORECASE,
)


def exact_number(question: str, reference: str, answer: str) -> float | None:
    """Return 1.0 if the answer states what the question asks to convert, else 0.0; None where nothing is converted.

    What is asked: the quantity of the reference that equals one in the question, in another unit.

    >>> exact_number("How many liters are in 5 gallons?", "5 gallons is 18.93 liters.", "That is about 18.9 L.")
    1.0
    >>> exact_number("How many liters are in 5 gallons?", "5 gallons is 18.93 liters.", "5 gallons are 20 liters.")
    0.0
    >>> exact_number("Why is a bowline safe?", "It does not slip.", "It holds.") is None
    True
    """
    given = list(quantities(question))
    targets = [stated for stated in quantities(reference) if any(_is_conversion(one, stated) for one in given)]
    if not targets:
        return None
    return float(any(stated.units == targets[0].units and _equal(stated, targets[0]) for stated in quantities(answer)))


def quantities(text: str) -> "Iterator[pint.Quantity[float]]":
    """Yield the numbers with a unit, in the order of the text.

    >>> [f"{quantity:~}" for quantity in quantities("Half a cup, 2 ½ tsp, −4 °F and 1,000 mL; 3 knots")]
    ['0.5 cp', '2.5 tsp', '-4.0 °F', '1000.0 ml']
    """
    for match in _QUANTITY.finditer(text):
        number = _number(match)
        if number is not None:
            yield _units().Quantity(number, _UNITS[match["unit"].lower()])


def _number(match: re.Match[str]) -> float | None:
    if match["word"]:
        return float(_WORDS[match["word"].lower()])
    if not match["number"] and not match["fraction"]:
        return None
    number = float((match["number"] or "0").replace(",", ""))
    if match["over"]:
        number /= float(match["over"][1:]) or 1.0
    number += _FRACTIONS.get(match["fraction"], 0.0)
    return -number if match["sign"] else number


def _is_conversion(given: Any, stated: Any) -> bool:
    return bool(given.units != stated.units and _equal(given, stated))


def _equal(one: Any, other: Any) -> bool:
    """Whether two quantities are the same amount but for rounding; of different kinds they never are."""
    if one.dimensionality != other.dimensionality:
        return False
    value, expected = one.to(other.units).magnitude, other.magnitude
    slack = 0.5 if str(other.units).startswith("degree") else 0.0  # degrees are rounded to whole ones, also near zero
    return bool(abs(value - expected) <= max(TOLERANCE * abs(expected), slack))


@cache
def _units() -> "pint.UnitRegistry[float]":
    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
