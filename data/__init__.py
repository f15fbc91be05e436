"""Questions and answers, from raw rows to a validated data set: see `python -m data --help`."""
