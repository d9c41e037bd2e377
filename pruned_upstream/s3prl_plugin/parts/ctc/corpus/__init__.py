"""The corpus readers that s3prl's `downstream/ctc/data.py` imports from its missing package `ctc.corpus`.

A reader is called as `Dataset(split, tokenizer, bucket_size, **corpus)`, where `corpus` is the yaml's section of that
name, and gives (path, token ids) pairs, or lists of `bucket_size` of them. The modules are loaded under s3prl's names,
so they name this package in full.
"""
