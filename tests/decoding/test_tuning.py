from jasper_ray.decoding.beam import Hypothesis
from jasper_ray.decoding.tuning import best_rescoring, measure_rescoring, oracle_errors

FOUND = [
    [Hypothesis("the hat sat", -10.0, -6.0), Hypothesis("the cat sat", -10.5, -7.5)],
    [Hypothesis("a dog", -3.0, -2.0), Hypothesis("a log", -4.0, -1.0)],
]
REFERENCES = ["the cat sat", "a dog"]
NEURAL = {"the hat sat": -9.0, "the cat sat": -5.0, "a dog": -4.0, "a log": -4.5}


def test_every_pair_of_weights_is_tried_and_the_fewest_errors_win() -> None:
    points = measure_rescoring(
        FOUND, NEURAL, REFERENCES, lm_weight=0.5, rescoring_weights=[0.0, 0.3], rescoring_lm_weights=[0.0, 0.5]
    )
    errors = {(point.rescoring_weight, point.rescoring_lm_weight): point.errors.word_edits for point in points}
    # Without the neural model but with its n-grams the order is that of the search: one word is wrong.
    assert errors == {(0.0, 0.0): 0, (0.0, 0.5): 1, (0.3, 0.0): 0, (0.3, 0.5): 0}
    best = best_rescoring(points)
    assert best.errors.word_edits == 0 and best.rescoring_weight == 0.0


def test_no_choice_among_the_hypotheses_beats_the_oracle() -> None:
    assert oracle_errors(FOUND, REFERENCES).word_edits == 0
    assert oracle_errors(FOUND, ["the bat sat", "a dog"]).word_edits == 1
