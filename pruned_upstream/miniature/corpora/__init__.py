"""One module per corpus: which clips it is made of, and the files that describe them."""
