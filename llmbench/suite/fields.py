"""The keys of a suite, and the values that each may have.

The checker of suites, their JSON Schema and `docs/suites.md` all go by these tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, TypeAlias, TypedDict

from llmbench.contract.cell import STAGES, Budget, Cell

#: Studies of every point of the matrix.
STUDIES = ("learning", "scaling")

#: Keys of one value, which a child and `--set` replace.
SCALARS = ("repeats", "verify", "measure")

TOP_KEYS = ("name", "extends", "matrix", "include", "exclude", "defaults", "budget", *SCALARS, *STUDIES)

BUDGET_KEYS = ("steps", *(f.name for f in fields_of(Budget)))

VERIFY = ("none", "verdict", "all")

SPEED = "speed"  # steps, their phases and the peak of memory: nothing is traced, verified or scored

MEASURE = ("all", SPEED)

LEARNING_KEYS = ("double", "seeds", "follow", "ample")

MIN_FOLLOW_FACTOR = 3  # a doubling (2) has been run already

DOUBLED = ("data", "steps", "parameters")

AMPLE = ("train_examples", "steps", "size")  # the field of each, in the same order

#: A place in a suite: keys, and positions in lists.
Key: TypeAlias = tuple[str | int, ...]
#: The value of a field of a cell; the field decides the type.
Value: TypeAlias = Any
#: What a suite says of a field: a value, a list of values, or a mapping from values of another field to expressions.
Expression: TypeAlias = Any
#: Field -> its expression.
Section: TypeAlias = Mapping[str, Expression]
#: Stage -> the value of a field at that stage.
Choice: TypeAlias = Mapping[str, Value]
#: A point of the matrix: field -> its choice.
Point: TypeAlias = dict[str, Choice]


class LearningStudy(TypedDict):
    """A study of what limits quality."""

    double: list[str]  # of DOUBLED
    seeds: int
    follow: int | None  # the factor with which open points are asked again
    ample: dict[str, Expression]  # fields of AMPLE


#: A variable of a suite: `${data}` is replaced by the value of `--set data=VALUE`.
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Field:
    """The values that one key may have.

    A value is of `type` (str: a name, int, float: a number above 0, or bool), an integer not below `least`, a name one
    of `choices`; where there is a `pattern`, a name that it matches, and `choices` are examples. `nullable`: or null.
    `only` is the single value that llmbench supports so far.
    """

    type: type[str] | type[int] | type[float] | type[bool]
    meaning: str
    least: int = 0
    nullable: bool = False
    choices: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    only: str | int | None = None

    def allows(self, name: str) -> bool:
        """Return whether a name is one of the choices, where there are some, or matches the pattern."""
        if self.pattern is not None:
            return self.pattern.fullmatch(name) is not None
        return not self.choices or name in self.choices


#: Fields of a cell that a suite may set, keys of the budget, and other keys of one value.
FIELDS: dict[str, Field] = {
    # fields of a cell
    "model": Field(str, "name of a model's plugin, or NAME:NAME_OR_PATH"),
    "size": Field(str, "name of a size, with settings and factors: tiny, base, tiny:layers=1,hidden=32, tiny*2"),
    "task": Field(str, "name of a task's plugin"),
    "dataset": Field(str, "name of a data set's plugin, or NAME:ARGUMENT, such as file:${data}/ag_news"),
    "stage": Field(str, "pretrain, finetune or eval", choices=STAGES),
    "device": Field(
        str,
        "cpu, cuda, cuda:N, mps, or auto: the best there is",
        choices=("cpu", "cuda", "cuda:1", "mps", "auto"),
        pattern=re.compile(r"auto|cpu|mps|cuda(:\d+)?"),
    ),
    "precision": Field(str, "name of a numeric setting"),
    "batch_size": Field(int, "examples of a step", least=1),
    # a question, a context and their marks need 8 tokens
    "seq_len": Field(int, "longest input, tokens, special ones included", least=8),
    "target_len": Field(
        int, "longest output of generation, tokens, end included; null: seq_len", least=1, nullable=True
    ),
    "steps": Field(int, "optimizer steps of training"),
    "seed": Field(int, "random seed of weights, order and masks"),
    "optimizer": Field(str, "kind of optimizer"),
    "learning_rate": Field(float, "peak learning rate; null: the model's own for the stage", nullable=True),
    "workers": Field(int, "loader processes"),
    "bucketing": Field(bool, "batches of similar lengths"),
    "compile": Field(bool, "compile the model"),
    "attention": Field(str, "implementation of attention"),
    # A cell is measured in one process, and a record must not say otherwise.
    "strategy": Field(str, "how several processes share the work", only=Cell.strategy),
    "world_size": Field(int, "processes that share the work", least=1, only=Cell.world_size),
    "train_examples": Field(int, "examples to train on; null: all", least=1, nullable=True),
    "test_examples": Field(int, "examples to score; null: all", least=1, nullable=True),
    # 256 bytes and 6 marks
    "vocab_size": Field(int, "tokens of the tokenizer that is trained", least=262),
    "pretrain_dataset": Field(str, "corpus of pretraining; null: the text of the data set", nullable=True),
    "weights": Field(str, "folder or hub name of a pretrained model to start from", nullable=True),
    "threads": Field(int, "threads of an operator on the CPU; null: torch's own choice", least=1, nullable=True),
    "accumulation": Field(int, "parts that a batch is taken in before an update", least=1),
    "labelled_logits": Field(bool, "output projection and loss only where there is a label"),
    "pretokenized": Field(bool, "text becomes tokens once, before the first step; false: in the loader"),
    "pin_memory": Field(bool, "page-locked batches, copied without waiting"),
    "checkpointing": Field(bool, "activations computed again in the backward pass"),
    "kv_cache": Field(bool, "generation keeps keys, values and states from token to token"),
    "cuda_graphs": Field(bool, "compiled, and replayed as CUDA graphs"),
    "keep_memory": Field(bool, "freed host memory stays with the process (glibc) instead of going back to the system"),
    "lora": Field(
        int, "rank of low-rank adapters that alone are fine-tuned; null: all weights", least=1, nullable=True
    ),
    # keys of the budget
    "seconds": Field(float, "clean timing per cell, seconds, shared by its first repeats"),
    "ci_pct": Field(float, "wanted half-width of the interval of the step time, percent"),
    "memory_mib": Field(float, "limit of a cell's process, MiB", nullable=True),
    "max_repeats": Field(
        int,
        "up to so many processes per cell, where the first ones show that ci_pct needs them",
        least=2,
        nullable=True,
    ),
    "largest_batch": Field(bool, "search the largest batch that fits"),
    "price_per_hour": Field(float, "of the machine, in any currency", nullable=True),
    "verify_seconds": Field(float, "time to try causes, seconds per cell"),
    "remedy_seconds": Field(float, "clean timing of each process that tries a remedy, seconds"),
    "remedy_pairs": Field(int, "pairs of processes that measure the recommended configuration", least=2),
    "remedy_seeds": Field(int, "seeds that it is trained with", least=2),
    # keys of one value
    "repeats": Field(int, "fresh processes per cell", least=1),
    "verify": Field(str, "which causes are removed and measured: none, the leading suspects, all", choices=VERIFY),
    "measure": Field(
        str,
        "all, or speed: steps, phases and the peak of memory; nothing is traced, verified or scored",
        choices=MEASURE,
    ),
    # keys of a study of learning
    "seeds": Field(int, "", least=2),
    "follow": Field(
        int,
        "ask what doubling leaves open again, with so many times as much; null: do not",
        least=MIN_FOLLOW_FACTOR,
        nullable=True,
    ),
}


def is_whole(name: str) -> bool:
    """Return whether the values of a key are integers."""
    return name in FIELDS and FIELDS[name].type is int
