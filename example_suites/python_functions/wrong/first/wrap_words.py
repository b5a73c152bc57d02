# Mistake: a line may not be filled to the last column.
def wrap_words(text, width):
    lines = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) < width:
            lines[-1] += " " + word
        else:
            lines += [word[cut : cut + width] for cut in range(0, len(word), width)]
    return lines
