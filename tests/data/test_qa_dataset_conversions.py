"""Check every unit conversion that the data set states, as it stands in the text, with the pint library.

A statement is two quantities joined by a verb ("1 gallon equals 3.785 liters"), "or about", or brackets
("165 °F (74 °C)"). The left side is converted and compared with the right side; the rule of precision is
  plain             within half a unit of the last digit written: "3.785 liters" allows 3.7845 to 3.7855;
  "exactly"         equal to nine figures;
  hedged, brackets  as plain, or within 3 % ("about", "nearly"); brackets also as plain from right to left.
Ranges ("10 to 15 cm (4 to 6 inches)") are compared end by end. Mass and volume are compared only "of water".
Sums such as "12 × 3.785 = 45.4" are recomputed and held to the plain rule.
"""

import json
import re
from fractions import Fraction
from pathlib import Path

import pint

DATASET = Path(__file__).parents[2] / "data/qa_dataset.jsonl"
MIN_STATEMENTS, MIN_SUMS = 500, 70  # it found 509 and 71

UREG: pint.UnitRegistry[float] = pint.UnitRegistry()
UREG.load_definitions(["metric_cup = 250 mL", "nato_mil = turn / 6400", "liter_per_100km = liter / (100 km)"])
WATER = ["@context water", "[volume] -> [mass]: value * 1 kg/L", "[mass] -> [volume]: value / (1 kg/L)"]
UREG.add_context(pint.Context.from_lines(WATER))
# pint unit = its names in the text, where a plural s may follow
UNITS = """degC=°C|degrees Celsius|degrees C; degF=°F|degrees Fahrenheit|degrees F; kelvin=K; inHg=inHg;
atm=atmosphere; cup=cup|US cup; metric_cup=metric cup; pint=pint|US pint|liquid pint; dry_pint=dry pint;
deciliter=deciliter|dl; imperial_pint=imperial pint|UK pint; quart=quart|qt|liquid quart; dry_quart=dry quart;
gallon=gallon|gal|US gallon; imperial_gallon=imperial gallon|UK gallon; teaspoon=teaspoon|tsp;
tablespoon=tablespoon|tbsp; liter=liter|litre|L; fluid_ounce=fluid ounce|fl oz|US fluid ounce;
imperial_fluid_ounce=imperial fluid ounce; milliliter=milliliter|mL|ml; ounce=ounce|oz; pound=pound|lb;
stone=stone; troy_ounce=troy ounce; troy_pound=troy pound; grain=grain; short_ton=short ton;
long_ton=long ton; metric_ton=tonne; kg=kilogram|kg; g=gram|g; mg=milligram|mg; microgram=mcg;
inch=inch|inches|in; foot=foot|feet|ft; yard=yard|yd; mile=mile|mi|statute mile; nautical_mile=nautical mile;
fathom=fathom; hand=hand; km=kilometer|km; m=meter|m; cm=centimeter|cm; mm=millimeter|mm; acre=acre;
hectare=hectare; foot**2=square foot|square feet; yard**2=square yard; mile**2=square mile; m**2=square meter;
km**2=square kilometer; cm**2=square centimeter; inch**3=cubic inch|cubic inches;
foot**3=cubic foot|cubic feet; yard**3=cubic yard; m**3=cubic meter; mph=mph|miles per hour; kph=km/h;
knot=knot; m/s=m/s; foot/s=feet per second; psi=psi; bar=bar; kPa=kPa; hPa=hPa; mile/gallon=mpg|US mpg;
mile/imperial_gallon=UK mpg; liter_per_100km=L/100 km; kJ=kJ; MJ=MJ; kcal=kcal|calorie|food calorie; kWh=kWh;
Btu=BTU; Btu/hour=BTU/h; watt=W|watt; kW=kW; hp=hp|horsepower; metric_horsepower=PS|metric horsepower;
newton*m=Nm|N m; foot*force_pound=lb-ft|ft-lb; inch*force_pound=in-lb; kN=kN; force_pound=lbf; second=second;
minute=minute; hour=hour; day=day; week=week; degree=degree; nato_mil=NATO mil; pound/acre=pounds per acre;
kg/hectare=kg per hectare; g/m**2=g per square meter; byte=byte; bit=bit; MB=MB; GB=GB; TB=TB; GiB=GiB;
Mbit/s=Mbit/s; MB/s=MB/s; mAh=mAh; Ah=Ah"""
ENTRIES = [entry.strip().split("=") for entry in UNITS.split(";")]
NAMES = {name + s: unit for unit, names in ENTRIES for name in names.split("|") for s in ("", "s")}
WORDS = {"a": 1, "an": 1, "half a": 0.5, "half an": 0.5, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
WORDS |= {"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12}
VULGAR = {"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3"}

COUNT, NAME = ("|".join(sorted(map(re.escape, words), key=len, reverse=True)) for words in (WORDS, NAMES))
NUMBER = rf"(?:-?\d[\d,]*(?:\.\d+)?(?: \d+/\d+|/\d+| ?[½¼¾⅓⅔])?|[½¼¾⅓⅔]|(?i:{COUNT})(?=[ -]))"
UNIT = rf"(?:{NAME})(?![\w/-]| per\b| for each)"
HEDGE = r"(?:about|roughly|approximately|around|nearly|almost|close to|near|just (?:over|under)|barely)"
VERB = r"(?:is|are|equals?|makes?|(?:comes?|works out) (?:to|at)|holds?|contains?|weighs?|means|becomes?|=)"
LINK = (
    rf"(?:(?:,? which)? {VERB}(?P<exact> exactly)?(?P<hedge> {HEDGE})?|,? or (?P<or>{HEDGE})"
    rf"|(?P<bracket> \()(?:{HEDGE} )?) ?"
)
SIDE = (
    rf"(?P<?low>{NUMBER})(?:(?: to |[-–])(?P<?high>{NUMBER}))?[ -]?(?P<?unit>{UNIT})"
    rf"(?:(?: plus)? (?P<?more>{NUMBER}) (?P<?small>{UNIT}))?"
)
LEFT, RIGHT = (SIDE.replace("(?P<?", f"(?P<{name}_") for name in ("left", "right"))
STATEMENT = re.compile(rf"(?<![\w.,:/°×–-])(?=(?P<all>{LEFT}(?P<of> of \w+)?{LINK}{RIGHT}))")
# text before the tail of a longer quantity ("half a cup", "5 ft 10 in") or before a map scale's "an inch"
PART = re.compile(r"(?:\d to |third of |quarter of |half |plus |f(?:ee|oo)?t |pounds? |1:[\d,]+ )$")
# text before a change of temperature, which is converted without the 32
CHANGE = re.compile(r"\b(?:by|for every|perhaps)(?: about)? $")
SUM = re.compile(r"(?<![×/+-] )(?<![\w.,/])(\d[\d.,]*(?: [×/+-] \d[\d.,]*)+) = (\d[\d,]*(?:\.\d+)?)")


def parse(text: str) -> tuple[float, float]:
    """The value of a written number, and half a unit of its last digit or of its fraction."""
    if text.lower() in WORDS:
        return WORDS[text.lower()], 0.5
    text = re.sub("[½¼¾⅓⅔]", lambda sign: VULGAR[sign[0]], text.replace(",", ""))
    parts = [Fraction(part) for part in text.split()]
    steps = parts[-1].denominator if "/" in text else 10 ** len(text.partition(".")[2])
    return float(sum(parts)), 0.5 / steps


def convert(value: float, unit: str, target: str) -> float:
    quantity = UREG.Quantity(value, unit)
    if not quantity.is_compatible_with(target) and (1 / UREG.Quantity(1, unit)).is_compatible_with(target):
        quantity = 1 / quantity  # distance per fuel and fuel per distance
    return float(quantity.to(target).magnitude)


def values(found: re.Match[str], side: str, unit: str) -> list[tuple[float, float]]:
    """The one or two numbers of a side, in its first unit, each with half a unit of its last digit."""
    numbers = [parse(found[side + end]) for end in ("_low", "_high") if found[side + end]]
    if found[side + "_more"]:
        more, half = (convert(x, NAMES[found[side + "_small"]], unit) for x in parse(found[side + "_more"]))
        numbers[-1] = numbers[-1][0] + more, half
    return numbers


def holds(found: re.Match[str]) -> bool | None:
    """Whether a statement is right; None if its sides are not two measures of one thing."""
    units = [NAMES[found["left_unit"]], NAMES[found["right_unit"]]]
    if units[0] == units[1] and not found["right_more"]:
        return None
    if not found["of"] and any(UREG.Quantity(1, unit).is_compatible_with("liter") for unit in units):
        units = ["fluid_ounce" if unit == "ounce" else unit for unit in units]
    if CHANGE.search(found.string[: found.start()]):
        units = [re.sub("^deg(?=[CF])", "delta_deg", unit) for unit in units]
    left, right = units
    loose = 0.03 if found["hedge"] or found["or"] or found["bracket"] else 0
    with UREG.context(*(["water"] if found["of"] == " of water" else [])):
        try:
            pairs = list(zip(values(found, "left", left), values(found, "right", right), strict=True))
            for (given, given_half), (stated, half) in pairs:
                error = abs(convert(given, left, right) - stated)
                margin = 1e-9 * abs(stated) if found["exact"] else max(half * (1 + 1e-9), loose * abs(stated))
                back = abs(convert(stated, right, left) - given)
                if error > margin and not (found["bracket"] and back <= given_half):
                    return False
        except (pint.DimensionalityError, ValueError):  # two kinds of thing, or a range beside a number
            return None
    return True


def texts() -> list[str]:
    lines = DATASET.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[key] for line in lines for key in ("question", "answer")]


def test_stated_conversions_are_right() -> None:
    found = [match for text in texts() for match in STATEMENT.finditer(text)]
    verdicts = [(m["all"], holds(m)) for m in found if not PART.search(m.string[: m.start()])]
    assert [statement for statement, verdict in verdicts if verdict is False] == []
    assert sum(verdict is True for _, verdict in verdicts) >= MIN_STATEMENTS


def test_sums_are_right() -> None:
    sums = [match.groups() for text in texts() for match in SUM.finditer(text)]
    wrong = []
    for terms, result in sums:
        first, *rest = terms.replace(",", "").split()
        total = float(first)
        for sign, x in zip(rest[::2], map(float, rest[1::2]), strict=True):
            total = {"×": total * x, "/": total / x, "+": total + x, "-": total - x}[sign]
        stated, half = parse(result)
        wrong += [f"{terms} = {result}"] if abs(total - stated) > half * (1 + 1e-9) else []
    assert wrong == []
    assert len(sums) >= MIN_SUMS
