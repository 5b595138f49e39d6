"""The built-in models: one file for each family, with its layout, its module, its FLOPs and its parameters.

`causal.py`, `seq2seq.py` and `heads.py` are the parts that transformers share, `_cells.py` those of recurrent models.
"""
