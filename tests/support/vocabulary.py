"""The vocabulary of the tiny models in the tests."""

WORDS = "good bad film food very not the a is was great awful slow fast dull fine ok so it ##s ##ly"
