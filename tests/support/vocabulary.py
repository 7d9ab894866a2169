"""The words that the tiny models of the tests know."""

WORDS = "good bad film food very not the a is was great awful slow fast dull fine ok so it ##s ##ly"
