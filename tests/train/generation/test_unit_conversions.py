import pytest

from train.generation.unit_conversions import exact_number, quantities


@pytest.mark.parametrize(
    ("question", "reference", "answer", "expected"),
    [
        ("How many liters are in 5 gallons?", "18.93 liters.", "5 gallons is about 19 liters.", 1.0),
        ("How many liters are in 5 gallons?", "18.93 liters.", "It is 189.3 liters.", 0.0),
        ("How many liters are in 5 gallons?", "18.93 liters.", "It is 5 gallons.", 0.0),
        ("How many liters are in 5 gallons?", "18.93 liters.", "It is 18.93 grams.", 0.0),
        ("What is 75°F in Celsius?", "24°C.", "It is 23.9 °C.", 1.0),
        ("What is -4°F in Celsius?", "−20°C.", "20 °C", 0.0),
        ("How many cups in a gallon?", "There are 16 cups in a gallon.", "Sixteen? 16 cups.", 1.0),
        ("How do I treat a nosebleed?", "Pinch for 10 minutes.", "Pinch.", None),
    ],
)
def test_exact_number(question, reference, answer, expected):
    assert exact_number(question, reference, answer) == expected


def test_quantities_of_odd_texts():
    assert [str(one) for one in quantities("1/2 cup and 1 1/2 miles, 10-foot rope, v1.2 kg/m")] == [
        "0.5 cup",
        "0.5 mile",
        "10.0 foot",
    ]
    assert list(quantities("1/0 cup")) != []
