"""The built-in data sets: `synthetic`, files of one's own (`file`), and those of Hugging Face (`hf`).

`_language.py` and `_lexicon.py` are the language of `synthetic`; `_formats.py`, `_splits.py`, `_samples.py`,
`_languages.py` and `_hub.py` read tables, split them and recognise their languages.
"""
