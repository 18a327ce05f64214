"""Laws of conversations, shared beginnings of prompts, and several tenants at once."""

from pathlib import Path

import numpy as np
import pytest

from codesign.base.document import parse_yaml
from codesign.base.errors import ConfigError
from workloads.requests import build_requests
from workloads.requests.datasets import load_dataset
from workloads.requests.sharing import fit_sharing, reuse_and_age, share_prefixes
from workloads.requests.stats import describe, prefix_stats
from workloads.requests.traces import read_trace

DATA = Path(__file__).parents[3] / "../shared/data/requests"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")

LENGTHS = {
    "prompt_tokens": {"name": "uniform", "min": 10, "max": 90},
    "output_tokens": {"name": "uniform", "min": 5, "max": 50},
}
TALKS = {"turns": {"name": "uniform", "min": 1, "max": 7}, "think_time": "20 s"}
FORM = {"count": 2000, "rate": "5 /s", "conversations": TALKS} | LENGTHS
SYSTEM = {"tokens": 100, "groups": 5, "skew": 1.0}
SHORT = {"block_tokens": 16}
TENANTS = {
    "count": 3000,
    "tenants": {
        "chat": {"dataset": "azure-conv-2023", "rate": "4 /s"},
        "code": {"dataset": "azure-code-2023", "rate": "2 /s", "domain": "programming"},
        "talk": {k: v for k, v in FORM.items() if k != "count"} | {"domain": "programming"},
    },
}


def tree(requests):
    """Return whether every block id always follows the same one."""
    before = {}
    for i in range(len(requests)):
        ids = requests.blocks(i).tolist()
        if any(before.setdefault(b, a) != a for a, b in zip([-1, *ids], ids, strict=False)):
            return False
    return True


def by_conversation(requests):
    for code in np.unique(requests.conversation)[:60]:
        yield requests[np.flatnonzero(requests.conversation == code)]


# conversations


def test_a_prompt_holds_all_that_was_said_before():
    for talk in by_conversation(build_requests(FORM, seed=1)):
        new = np.diff(talk.prompt_tokens) - talk.output_tokens[:-1]
        assert (new >= 10).all()
        assert (new <= 90).all()
        assert 10 <= talk.prompt_tokens[0] <= 90


def test_turns_of_a_conversation_share_their_full_blocks():
    made = build_requests(FORM | SHORT | {"shared_prefix": SYSTEM}, seed=1)
    assert made.block_tokens == 16
    assert (np.diff(made.prefix_ptr) == made.prompt_tokens // 16).all()
    for talk in by_conversation(made):
        for i in range(1, len(talk)):
            one, two = talk.blocks(i - 1), talk.blocks(i)
            np.testing.assert_array_equal(one, two[: len(one)])
    assert tree(made)


FORMS = [
    FORM,
    FORM | SHORT | {"shared_prefix": SYSTEM},
    FORM | {"batch": True, "rate": None},
    {"dataset": "azure-code-2023", "count": 2000, "conversations": TALKS},
]


@pytest.mark.parametrize("form", FORMS)
def test_conversations_are_drawn_the_same_whatever_the_count(form):
    few, many = build_requests(form | {"count": 300}, seed=1), build_requests(form, seed=1)
    assert len(many) == 2000
    assert few.equals(many[:300])
    assert many.equals(build_requests(form, seed=1))


def test_rate_counts_requests_and_turns_have_their_mean():
    made = build_requests(FORM | {"count": 40_000}, seed=1)
    assert describe(made)["rate_per_s"] == pytest.approx(5, rel=0.05)
    turns = np.bincount(made.conversation)[: len(made) // 8]  # those that surely ended
    assert turns.mean() == pytest.approx(4, rel=0.05)
    gaps = np.concatenate([np.diff(talk.arrival_s) for talk in by_conversation(made)])
    assert gaps.mean() == pytest.approx(20, rel=0.25)


def test_a_conversation_ends_at_the_limit_of_its_context():
    made = build_requests(FORM | {"conversations": TALKS | {"max_tokens": 200}}, seed=1)
    assert (made.prompt_tokens + made.output_tokens).max() <= 200
    whole = build_requests(FORM, seed=1)
    assert (whole.prompt_tokens + whole.output_tokens).max() > 200


def test_blocks_that_would_fill_the_memory_are_refused():
    form = {"count": 300_000, "rate": "5 /s", "prompt_tokens": 10_000, "output_tokens": 1, "block_tokens": 1}
    with pytest.raises(ConfigError, match="use larger block_tokens"):
        build_requests(form | {"shared_prefix": SYSTEM}, seed=1)


def test_a_batch_of_conversations_keeps_their_order():
    made = build_requests(FORM | {"batch": True, "rate": None}, seed=1)
    assert not made.arrival_s.any()
    assert (np.diff(made.conversation) >= 0).all()


# system prompts


def test_system_prompts_precede_every_prompt_and_are_shared_by_their_popularity():
    plain = build_requests({"count": 5000, "rate": "5 /s"} | LENGTHS, seed=1)
    made = build_requests({"count": 5000, "rate": "5 /s", "shared_prefix": SYSTEM} | SHORT | LENGTHS, seed=1)
    np.testing.assert_array_equal(made.prompt_tokens, plain.prompt_tokens + 100)
    np.testing.assert_array_equal(made.arrival_s, plain.arrival_s)
    assert made.conversation is None
    firsts = np.array([made.blocks(i)[0] for i in range(len(made))])
    shares = np.sort(np.unique(firsts, return_counts=True)[1] / len(made))[::-1]
    weights = 1 / np.arange(1, 6)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.03)
    reused, _ = reuse_and_age(made)
    assert np.median(reused) == 100 // 16
    assert tree(made)


# sharing as recorded


@needs_data
def test_a_fitted_stream_shares_prefixes_as_the_trace_does():
    real = read_trace(DATA / "mooncake_synthetic_trace.jsonl.gz").requests
    for seed in range(3):
        made = build_requests({"dataset": "mooncake-synthetic", "count": len(real)}, seed=seed)
        one, two = prefix_stats(real), prefix_stats(made)
        assert two["requests_with_reuse"] == pytest.approx(one["requests_with_reuse"], abs=0.03)
        assert two["block_hit_rate"] == pytest.approx(one["block_hit_rate"], abs=0.07)
        assert tree(made)


def test_shared_blocks_do_not_depend_on_the_count_and_leave_lengths_alone():
    few = build_requests({"dataset": "mooncake-synthetic", "count": 100}, seed=1)
    many = build_requests({"dataset": "mooncake-synthetic", "count": 900}, seed=1)
    assert few.equals(many[:100])
    assert (np.diff(many.prefix_ptr) == -(-many.prompt_tokens // 512)).all()


def test_a_stream_without_reuse_has_no_sharing():
    sharing = load_dataset("mooncake-synthetic").sharing
    tokens = np.full(50, 2000)
    ptr, ids = share_prefixes(tokens, sharing, 1)
    assert ptr[-1] == len(ids) == 50 * 4
    alone = build_requests(
        {"count": 50, "rate": "5 /s", "shared_prefix": {"tokens": 1}} | SHORT | LENGTHS, seed=1
    )
    assert fit_sharing(alone) is None


# tenants


def test_tenants_are_merged_whole_and_in_order():
    made = build_requests(TENANTS, seed=1)
    assert len(made) == 3000
    assert made.tenant_names == ("chat", "code", "talk")
    assert made.domain_names == ("chat", "programming")
    np.testing.assert_array_equal(made.domain, np.array([0, 1, 1])[made.tenant])
    shares = describe(made)["tenants"]
    assert shares["chat"] == pytest.approx(4 / 11, abs=0.15)
    assert (made.conversation[made.tenant < 2] == -1).all()
    assert (made.conversation[made.tenant == 2] >= 0).all()
    assert (np.diff(made.prefix_ptr)[made.tenant < 2] == 0).all()


def test_another_tenant_changes_no_draw_of_the_others():
    whole = build_requests(TENANTS, seed=1)
    fewer = {name: TENANTS["tenants"][name] for name in ("chat", "talk")}
    pair = build_requests(TENANTS | {"tenants": fewer}, seed=1)
    for name in fewer:
        one = whole[np.flatnonzero(whole.tenant == whole.tenant_names.index(name))]
        two = pair[np.flatnonzero(pair.tenant == pair.tenant_names.index(name))]
        n = min(len(one), len(two))
        assert n > 100
        np.testing.assert_array_equal(one.arrival_s[:n], two.arrival_s[:n])
        np.testing.assert_array_equal(one.prompt_tokens[:n], two.prompt_tokens[:n])


def test_tenants_do_not_depend_on_the_count_and_scale_with_the_rate():
    plain = build_requests(TENANTS, seed=1)
    assert build_requests(TENANTS | {"count": 200}, seed=1).equals(plain[:200])
    double = build_requests(TENANTS | {"rate": "22 /s"}, seed=1)
    np.testing.assert_allclose(double.arrival_s * 2, plain.arrival_s)
    closed = build_requests(TENANTS | {"concurrency": 7}, seed=1)
    assert closed.concurrency == 7
    assert not closed.arrival_s.any()
    np.testing.assert_array_equal(closed.prompt_tokens, plain.prompt_tokens)


HEAD = "count: 9\nrate: 5 /s\nprompt_tokens: 5\noutput_tokens: 5\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "conversations: {turns: 3}", "think_time: is required"),
        (HEAD + "conversations: {think_time: 3 s}", "x.yaml:5: conversations.turns: is required"),
        (HEAD + "conversations: {turns: 0, think_time: 3 s}", "conversations.turns = 0"),
        (HEAD + "conversations: {turns: 3, think_time: 3}", "think_time = 3: has no unit"),
        (HEAD + "conversations: 7", "conversations|mapping|dictionary|object"),
        (HEAD + "shared_prefix: {tokens: 0}", "tokens = 0"),
        (HEAD + "shared_prefix: {tokns: 7}", "tokns: unknown key.*'tokens'"),
        ("count: 9\ntenants: {}", "tenants"),
        ("count: 9\ntenants: {a: 7}", "a = 7: is a stream"),
        ("count: 9\ntenants: {a: {dataset: azure-conv-2023, count: 7}}", "belongs to the whole"),
        ("count: 9\ntenants:\n  a: {dataset: sharegpt}\n  b: {dataset: azure-con}", "x.yaml:4.*azure-con'"),
        ("count: 9\ntenants:\n  a: {prompt_tokens: 5, output_tokens: 5}", "x.yaml:3: tenants.a.rate: is"),
        ("count: 9\ntenants:\n  a: {dataset: azure-conv-2023, domain: 7}", "domain = 7: must be a name"),
        ("tenants: {a: {dataset: azure-conv-2023}}", "count: is required"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_with_their_place(text, said):
    with pytest.raises(ConfigError, match=said):
        build_requests(parse_yaml(text, "x.yaml"), seed=1)
