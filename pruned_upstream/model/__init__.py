"""The encoder: its shape as data, its code, its files. Knows nothing of training, s3prl or recipes."""
