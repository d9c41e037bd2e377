"""A language model for tests, as an ARPA file has it."""

# KenLM reads none below bigrams; that after the start makes CAT likely and CAR not
ARPA = r"""\data\
ngram 1=5
ngram 2=1

\1-grams:
-1.0	<unk>
0.0	<s>	0.0
-0.5	</s>
-0.2	CAT	0.0
-3.0	CAR	0.0

\2-grams:
-0.2	<s> CAT

\end\
"""
