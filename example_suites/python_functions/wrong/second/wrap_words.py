# Mistake: textwrap begins a long word on the line before it.
import textwrap


def wrap_words(text, width):
    return textwrap.wrap(" ".join(text.split()), width)
