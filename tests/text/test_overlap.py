from jasper_ray.text.overlap import HeldOut


def test_six_words_in_a_row_give_a_transcript_away() -> None:
    held_out = HeldOut(["one two three four five six seven eight"])
    assert held_out.is_in("and three four five six seven eight nine")
    assert not held_out.is_in("three four five six seven ten eight")


def test_a_short_transcript_counts_as_a_whole_line_only() -> None:
    held_out = HeldOut(["good morning"])
    assert held_out.is_in(" good  morning ")
    assert not held_out.is_in("good morning everybody")
