"""How the time of a verification is divided: which causes are tried, for how long, and in how many pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Selection(NamedTuple):
    """Which causes are tried where only the verdict is asked for."""

    per_axis: int  # so many of each axis
    leading_x: float  # the first of an axis is predicted to give at least this headroom
    further_x: float  # and each further one this


@dataclass(frozen=True)
class TrialPolicy:
    """The numbers by which trials of causes are planned. A verification is given seconds, and these divide them.

    Probing (a look at each cause, for its prediction):

    | field | unit | what it is | why |
    |---|---|---|---|
    | `probing_share` | of the time | after it no further cause is probed | the trials need the rest |
    | `least_probing_s` | s | probing may take so long in any case | a verdict needs predictions |

    Selection (which causes are tried where only the verdict is asked for):

    | field | unit | what it is | why |
    |---|---|---|---|
    | `suspects` | causes per axis | are tried | the verdict is the largest; predictions seldom miss it by more ranks |
    | `suspect_x` | headroom | a smaller prediction needs no trial | the threshold of a verdict is 1.10 |
    | `haste_s` | s | less time than this is haste | |
    | `suspects_in_haste` | causes per axis | are tried in haste | more of them would get too few pairs each |
    | `further_in_haste_x` | headroom | in haste, further causes must promise it | less would hardly be material |

    Time of a trial:

    | field | unit | what it is | why |
    |---|---|---|---|
    | `trials_share` | of the time | is left to trials at least | probing may have taken long |
    | `together_share` | of the rest | is left for the two largest causes at once | |
    | `patience` | times its share | the fewest pairs of a trial may take | else it waits for what the others leave |
    | `least_share_s` | s | a smaller share counts as this | where many causes share little time |
    | `leading_share_where` | of the rest | the first component may take | it is the headline |
    | `leading_share_why` | of the rest | the first resource may take | |

    Pairs of blocks:

    | field | unit | what it is | why |
    |---|---|---|---|
    | `block_s` | s | a block is at least so long | reading the clock and switching must not count |
    | `long_block_steps` | steps | blocks of so many are steadier | `short_pairs` suffice for them |
    | `first_pairs` | pairs | are taken before their number is fixed | half select and half estimate: both need 5 |
    | `short_pairs` | pairs | must do where time is short | an interval needs them |
    | `most_pairs` | pairs | are taken at most | |
    | `half_width` | log headroom | half the interval, as it should become | a quarter of a material headroom, 1.10 |
    | `together_x` | headroom | both of two causes must give it to be removed at once | smaller ones cannot interact |
    """

    probing_share: float = 0.6
    least_probing_s: float = 6.0
    suspects: int = 3
    suspect_x: float = 1.04
    haste_s: float = 8.0
    suspects_in_haste: int = 2
    further_in_haste_x: float = 1.08
    trials_share: float = 0.5
    together_share: float = 0.15
    patience: float = 3.0
    least_share_s: float = 1.0
    leading_share_where: float = 0.85
    leading_share_why: float = 0.5
    block_s: float = 0.02
    long_block_steps: int = 12
    first_pairs: int = 12
    short_pairs: int = 6
    most_pairs: int = 60
    half_width: float = 0.025
    together_x: float = 1.05

    def selection(self, seconds: float) -> Selection:
        """Return which causes to try in `seconds`."""
        if seconds >= self.haste_s:
            return Selection(self.suspects, self.suspect_x, self.suspect_x)
        return Selection(self.suspects_in_haste, self.suspect_x, self.further_in_haste_x)

    def patience_s(self, share_s: float) -> float:
        """Return the seconds that the fewest pairs of a trial may take whose share of the time is `share_s`."""
        return self.patience * max(share_s, self.least_share_s)

    def leading_share(self, axis: str) -> float:
        """Return the share of the rest that the first trial of an axis may take."""
        return self.leading_share_where if axis == "where" else self.leading_share_why


DEFAULT_POLICY = TrialPolicy()
