# Mistake: `csv` keeps the spaces around fields.
import csv


def split_fields(line):
    return next(csv.reader([line], delimiter=";", quotechar="'"), None) or [""]
