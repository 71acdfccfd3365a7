"""Training subsets: nested, stratified, fair, and a pure function of their arguments."""

import hashlib
import random
from collections import Counter

import pytest

from common.cli import TRAINING_SIZES, UserError
from common.subsample import describe, subset, whole_groups

SIZES = TRAINING_SIZES[1:]
NLI_LIKE = ["entailment", "contradiction", "neutral"] * 333 + ["neutral"] * 4
TWO_WAY = random.Random(0).choices(["yes", "no"], [3, 1], k=997)
NER_LIKE = random.Random(1).choices(range(25), [0.75**k for k in range(25)], k=2003)
SINGLETONS = ["common"] * 300 + ["other"] * 100 + [f"rare-{i}" for i in range(30)]
STRATA = {"nli": NLI_LIKE, "two-way": TWO_WAY, "ner": NER_LIKE, "singletons": SINGLETONS}
every_strata = pytest.mark.parametrize("strata", STRATA.values(), ids=STRATA)


@every_strata
@pytest.mark.parametrize("seed", (0, 42))
def test_nested_prefixes_of_a_permutation(strata, seed):
    whole = subset(strata, 100, seed)
    assert sorted(whole) == list(range(len(strata)))
    for size in (0, *SIZES, 1, 37, 99):
        chosen = subset(strata, size, seed) if size else []
        assert chosen == whole[: round(len(strata) * size / 100)]


@pytest.mark.parametrize(
    ("n", "percentage", "size"),
    [(100, 30, 30), (7, 30, 2), (7, 50, 4), (16619, 10, 1662), (11232, 30, 3370), (6, 10, 1)]
    + [(1, 100, 1), (3, 0, 0), (0, 0, 0)],
)
def test_sizes_are_rounded(n, percentage, size):
    assert len(subset(["x"] * n, percentage, 0)) == size


def common_fraction(counts, totals):
    """Whether some one fraction t has every stratum within one example of t times its total."""
    low = max((counts[s] - 1) / totals[s] for s in totals)
    return low <= min((counts[s] + 1) / totals[s] for s in totals)


@every_strata
def test_stratified(strata):
    """Each stratum within one example of the same fraction; chance alone is far from that."""
    totals = Counter(strata)
    by_chance = 0
    for percentage in range(5, 100, 5):
        for seed in range(10):
            chosen = subset(strata, percentage, seed)
            assert common_fraction(Counter(strata[i] for i in chosen), totals)
            chance = random.Random(seed).sample(strata, len(chosen))
            by_chance += common_fraction(Counter(chance), totals)
    assert by_chance < 0.5 * 19 * 10


def test_a_stratum_of_one_is_as_likely_in_any_tenth():
    seeds = 1000
    single = SINGLETONS.index("rare-0")
    place = [subset(SINGLETONS, 100, seed).index(single) for seed in range(seeds)]
    tenths = Counter(10 * p // len(SINGLETONS) for p in place)
    # 100 expected in each; 5 standard deviations of a binomial(1000, 0.1).
    assert set(tenths) == set(range(10))
    assert all(abs(n - seeds / 10) < 5 * (seeds * 0.1 * 0.9) ** 0.5 for n in tenths.values())


def test_members_of_a_stratum_are_equally_likely():
    seeds = 1000
    drawn = Counter(i for seed in range(seeds) for i in subset(["a"] * 6 + ["b"] * 14, 30, seed))
    assert all(abs(drawn[i] - 300) < 5 * (seeds * 0.3 * 0.7) ** 0.5 for i in range(20))


def test_independent_of_the_global_random_state_and_leaves_it_alone():
    chosen = []
    for state in (1, 2):
        random.seed(state)
        before = random.getstate()
        chosen.append(subset(NER_LIKE, 30, 7))
        assert random.getstate() == before
    assert chosen[0] == chosen[1]


@every_strata
def test_another_seed_is_another_subset(strata):
    subsets = {tuple(sorted(subset(strata, 30, seed))) for seed in range(20)}
    assert len(subsets) == 20


def test_known_answer():
    """The subsets of published results must not change: pinned, with Python's own generator."""
    assert subset("aabbbbcccc", 50, 42) == subset(list("aabbbbcccc"), 50, 42)
    digest = describe(subset(NLI_LIKE, 30, 42), NLI_LIKE)["sha256"]
    assert digest == "6e12bdb6c331318c1a2044b29e0280fc996102e2130714f913982ce10588a977"


def test_an_empty_subset_is_a_user_error():
    with pytest.raises(UserError, match=r"10 % of 4 training examples \(or groups\) are none"):
        subset(["a"] * 4, 10, 0)
    with pytest.raises(UserError):
        subset([], 100, 0)
    assert subset(["a"] * 4, 0, 0) == []  # 0 is no training, no error


def test_describe():
    strata = ["b", "a", "b", "c"]
    digest = hashlib.sha256(b"2,0,3").hexdigest()  # the order counts too
    expected = {"size": 3, "sha256": digest, "strata": {"b": 2, "c": 1}}
    assert describe([2, 0, 3], strata) == expected


def test_groups_stay_whole_and_the_order_is_stratified():
    strata = ["a"] * 60 + ["b"] * 30
    groups = [f"g{i // 3}" for i in range(90)]
    chosen = whole_groups(strata, groups, 20, 0)
    assert chosen == sorted(chosen) and 20 <= len(chosen) <= 22
    kept = {groups[i] for i in chosen}
    assert [i for i in range(90) if groups[i] in kept] == chosen
    alone = whole_groups(strata, range(90), 30, 0)
    assert len(alone) == 30 and sum(strata[i] == "b" for i in alone) == 10
    assert whole_groups(strata, groups, 0, 0) == list(range(90))
    assert whole_groups(strata, groups, 90, 0) == list(range(90))


def test_large_groups_are_not_drawn_more_often_than_small_ones():
    sizes = [1, 9] * 500
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    chosen = whole_groups(["a"] * len(groups), groups, 1000, 0)
    assert sum(sizes[groups[i]] == 9 for i in chosen) == pytest.approx(900, abs=40)
