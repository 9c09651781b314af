"""English numbers in words, as transcripts of read speech have them: no "and", no hyphens."""

SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
GROUPS = [
    "", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion", "sextillion", "septillion",
    "octillion", "nonillion",
]  # fmt: skip
IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip


def cardinal(number: int) -> str:
    """`1234` is "one thousand two hundred thirty four"; numbers beyond 33 digits are read digit by digit."""
    if number >= 1000 ** len(GROUPS):
        return digits(str(number))
    if number == 0:
        return SMALL[0]
    words: list[str] = []
    for position in reversed(range(len(GROUPS))):
        group = number // 1000**position % 1000
        if group:
            words += [_below_thousand(group), GROUPS[position]]
    return " ".join(word for word in words if word)


def ordinal(number: int) -> str:
    """`21` is "twenty first"."""
    first, _, last = cardinal(number).rpartition(" ")
    if last in IRREGULAR_ORDINALS:
        last = IRREGULAR_ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last = f"{last}th"
    return f"{first} {last}".strip()


def digits(number: str) -> str:
    """`007` is "zero zero seven"."""
    return " ".join(SMALL[int(digit)] for digit in number)


def pairs(number: int) -> str:
    """A number of four digits in two halves, as years are read: 1905 is "nineteen oh five"."""
    first, second = divmod(number, 100)
    return f"{cardinal(first)} {'oh ' if second < 10 else ''}{cardinal(second)}"


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    words = [f"{SMALL[hundreds]} hundred"] if hundreds else []
    if rest >= 20:
        words.append(TENS[rest // 10])
        rest %= 10
    if rest:
        words.append(SMALL[rest])
    return " ".join(words)
