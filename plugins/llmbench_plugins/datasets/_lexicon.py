"""The words of `synthetic`: each belongs to one category, so that a text can be read in one way only."""

from __future__ import annotations

from llmbench_plugins.datasets._language import Lexicon

TOPICS = ("weather", "music", "market", "sea")
NATIVE = Lexicon(
    topics=TOPICS,
    own_share=0.56,  # the exact classifier is then right 19 times of 20
    determiners={"the": 0.8, "a": 0.2},
    words={
        "noun": (
            ("rain", "cloud", "storm", "river", "hill", "snow"),
            ("song", "drum", "choir", "violin", "singer", "tune"),
            ("shop", "coin", "farmer", "basket", "stall", "bread"),
            ("boat", "sail", "harbor", "wave", "sailor", "net"),
        ),
        "verb": (
            ("covers", "follows", "cools"),
            ("opens", "praises", "plays"),
            ("buys", "counts", "carries"),
            ("crosses", "finds", "pulls"),
        ),
        "adj": (
            ("cold", "grey", "wild"),
            ("loud", "sweet", "slow"),
            ("cheap", "fresh", "busy"),
            ("deep", "salty", "blue"),
        ),
    },
)
ENTITIES = ("mira", "tovo", "lena", "kasu", "dori", "peku", "sanu", "rilo", "zema", "fani", "bolu", "niko")
FACT_VERBS = {"holds": "hold", "keeps": "keep", "wants": "want", "sells": "sell", "paints": "paint", "hides": "hide"}


def _dictionary() -> dict[str, str]:
    """Return native word -> foreign word: two syllables and the ending of the category."""
    endings, names = {"noun": "o", "verb": "en", "adj": "i"}, {"the": "lo", "a": "un"}
    for category, ending in endings.items():
        for i, word in enumerate(w for group in NATIVE.words[category] for w in group):
            names[word] = "bdgkmprstvzf"[i % 12] + "aeiou"[(i + i // 12) % 5] + "lrnsm"[i // 12] + ending
    return names


DICTIONARY = _dictionary()
FOREIGN = NATIVE.rename_words(DICTIONARY, noun_first=True)
