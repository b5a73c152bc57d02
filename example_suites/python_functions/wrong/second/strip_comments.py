# Mistake: an escaped quote ends the text in quotes.
def strip_comments(source):
    lines = []
    for line in source.split("\n"):
        quoted = False
        for place, character in enumerate(line):
            if character == '"':
                quoted = not quoted
            elif character == "#" and not quoted:
                line = line[:place]
                break
        lines.append(line.rstrip(" "))
    return "\n".join(lines)
