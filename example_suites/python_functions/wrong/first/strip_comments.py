# Mistake: a `#` in quotes begins a comment.
def strip_comments(source):
    return "\n".join(line.split("#")[0].rstrip(" ") for line in source.split("\n"))
