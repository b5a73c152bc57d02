# Mistake: splits at semicolons in quotes too.
def split_fields(line):
    fields = []
    for field in line.split(";"):
        field = field.strip(" ")
        if len(field) > 1 and field[0] == field[-1] == "'":
            field = field[1:-1].replace("''", "'")
        fields.append(field)
    return fields
