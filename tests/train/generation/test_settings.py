from train.generation.settings import GenerationSettings


def test_answers_are_greedy_unless_asked_for_otherwise():
    assert GenerationSettings().way == "greedy"
    assert GenerationSettings(sample=True, seed=7).way == "sampled with seed 7"


def test_what_is_written_beside_answers_makes_them_again():
    settings = GenerationSettings(max_new_tokens=9, sample=True)
    assert GenerationSettings(**settings.dump()) == settings
