"""Mutated input of every kind: a valid run, or one clear error; never a traceback, a hang or a NaN.

Each case takes four valid files that belong together (an experiment, a hardware file, a model, a trace),
breaks one of them as an editor, a slip or a broken disk would, and runs ``codesign run`` in this process.
"""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from random import Random

import pytest

from codesign.cli.main import main

CASES, PARTS = 2400, 8
LIMIT_S = 60

EXPERIMENT = """\
# two small machines, a small mixture of experts
name: small
model: ./model.json
system: ./system.yaml
parallel: {tensor: 2, expert: 4}
precision: {weights: bf16, activations: bf16, kv: bf16}
memory: {utilization: 0.9, block_tokens: 16}
engine: {step: 1 ms, per_sequence: 5 us}
workload:
  requests: {trace: ./trace.csv, limit: 4}
  routing: {generator: synthetic, popularity: {zipf: 0.3}, affinity: 0.2, locality: 0.1}
policies:
  batching: {name: chunked_prefill, token_budget: 64, max_sequences: 8}
  placement: round_robin
  load_balance: least_loaded
slo: {ttft: 1 s, tpot: 50 ms}
speed: {memory: 1.5}
fidelity: event
horizon: 50 ms
seed: 1
"""
OTHER = """\
# no files of its own, another value for every choice
model: gpt-oss-20b
system: {from: dgx-a100, device: {from: l40s, memory: {gddr: {bandwidth: 900 GB/s}}}, devices_per_node: 4}
parallel: {tensor: 2, pipeline: 2, replicas: 1}
precision: {weights: native, kv: fp8, dispatch: fp8}
engine: {per_token: 1 us}
workload:
  requests:
    count: 4
    rate: 100 /s
    arrivals: {name: gamma, cv: 2}
    prompt_tokens: {name: uniform, min: 4, max: 90}
    output_tokens: 3
  routing: {generator: zipf, exponent: 0.4}
policies:
  batching: {name: prefill_first, max_batched_tokens: 128, max_sequences: 4}
  placement: random
  load_balance: shared_queue
cost_model: {name: roofline}
fidelity: roofline
horizon: 1 s
seed: 2
"""
TIERS = """\
# experts in host memory behind a cache, PIM beside the device's memory, a prefix cache, conversations
model: {from: mixtral-8x7b, num_hidden_layers: 3}
system:
  from: dgx-h100
  device:
    from: h100
    pim:
      {tier: hbm, level: bank, bandwidth: 10 TB/s, peak_flop_rate: 20 TFLOP/s, launch_overhead: 2 us,
       energy_per_byte: 1 pJ/bit, energy_per_flop: 1 pJ/FLOP}
  devices_per_node: 2
parallel: {tensor: 1, expert: 2}
memory: {experts: ddr, prefix_cache: true, block_tokens: 8}
workload:
  requests: {dataset: azure-conv-2023, count: 4, rate: 30 /s, shared_prefix: {tokens: 32, groups: 2}}
  routing: {generator: synthetic, popularity: {gini: 0.3}}
policies:
  expert_cache: {name: lru, slots: 3, scope: layer, chunks: 2, prefetch: {accuracy: 0.8}}
horizon: 2 s
"""
UNITS = TIERS.replace(
    "memory: {experts: ddr, prefix_cache: true, block_tokens: 8}", "fidelity: event"
).replace(
    "expert_cache: {name: lru, slots: 3, scope: layer, chunks: 2, prefetch: {accuracy: 0.8}}",
    "units: co_process",
)
DENSE = """\
model: {from: llama-3.1-8b, num_hidden_layers: 4}
system: dgx-h100
parallel: {tensor: 2, replicas: 3}
workload:
  requests: {dataset: azure-code-2023, count: 4, rate: 50 /s}
policies:
  batching: {name: static, batch_size: 2, wait: false}
slo: {e2e: 2 s}
horizon: 1 s
"""
SYSTEM = """\
from: dgx-a100
name: two-small-nodes
nodes: 2
devices_per_node: 2
device:
  from: a100
  memory:
    hbm: {capacity: 20 GiB, bandwidth: 1.2 TB/s}
  power: {idle: 50 W, peak: 300 W}
intra_node: {bandwidth: 200 GB/s, latency: 3 us, energy_per_byte: 6 pJ/bit, efficiency: 0.7}
inter_node: {bandwidth: 25 GB/s, latency: 7 us, energy_per_byte: 30 pJ/bit}
host:
  idle: 400 W
price: {rental: 8 USD/h}
"""
MODEL = {
    "model_type": "deepseek_v3",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
TRACE = """\
arrival_s,prompt_tokens,output_tokens
0.0,120,3
0.01,35,8
0.013,70,2
0.5,5,40
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,48,3
2023-11-16 18:17:03.9819600,31,8
2023-11-16 18:17:04.0319600,110,2
"""
FILES = {
    "experiment.yaml": [EXPERIMENT, OTHER, TIERS, UNITS, DENSE],
    "system.yaml": [SYSTEM],
    "model.json": [json.dumps(MODEL, indent=1)],
    "trace.csv": [TRACE, AZURE],
}
TOKENS = [
    "-1", "0", "1", "2", "3", "5", "8", "0.5", "-0.0", "1e999", "nan", ".nan", "inf", ".inf", "1e-300",
    "1e308", "1000000", "9" * 30, "null", "true", "false", "[]", "{}", "''", '""', "~", "x", "[1, 2]",
    "{a: 1}", "1 s", "0 s", "5 ns", "-3 TB/s", "5 TBs", "0 B/s", "1e30 TB/s", "3 GB/s", "4 KiB", "1 B",
    "12", "12 parsecs", "1 W", "0 W", "mixtral-8x7b", "h100", "dgx-h100", "./model.json", "./system.yaml",
    "./trace.csv", "./experiment.yaml", ".", "./nowhere", "/", "zipf", "uniform", "static", "fp8", "fp4",
    "int3", "cycle", "roofline", "simpy", "*a", "&a b", "!!python/name:os.system", "<<", "\t", "#", "- ",
    "\x00", "\ufeff", "é", "٣", "\u2028", "'", '"', "{", "]", ":",
]  # fmt: skip


def pieces(text: str) -> list[str]:
    """Split a text into words and what stands between them; their concatenation is the text."""
    out: list[str] = []
    for character in text:
        word = character.isalnum() or character in "._-/"
        if out and (out[-1][-1].isalnum() or out[-1][-1] in "._-/") == word:
            out[-1] += character
        else:
            out.append(character)
    return out


def words(parts: list[str]) -> list[int]:
    """Return the indices of the words."""
    return [i for i, part in enumerate(parts) if part[0].isalnum() or part[0] in "._-/"]


def change_word(text: str, random: Random) -> str:
    """Replace one word by something odd, or by another word of the file."""
    parts = pieces(text)
    places = words(parts)
    if places:
        other = parts[random.choice(places)] if random.random() < 0.4 else random.choice(TOKENS)
        parts[random.choice(places)] = other
    return "".join(parts)


def change_number(text: str, random: Random) -> str:
    """Replace one number by a near, a small, a large or a wrong one."""
    parts = pieces(text)
    numbers = [i for i in words(parts) if parts[i].replace(".", "", 1).isdigit()]
    if numbers:
        place = random.choice(numbers)
        number = float(parts[place]) if "." in parts[place] else int(parts[place])
        changed = [number + 1, number - 1, number * 2, number // 2, number * 1000, -number, 0, 1, 3, 7, 0.3]
        parts[place] = str(random.choice(changed))
    return "".join(parts)


def misspell(text: str, random: Random) -> str:
    """Lose, double or exchange a character of one word."""
    parts = pieces(text)
    long = [i for i in words(parts) if len(parts[i]) > 2]
    if long:
        place = random.choice(long)
        word, at = parts[place], random.randrange(len(parts[place]) - 1)
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        parts[place] = random.choice([word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], swapped])
    return "".join(parts)


def change_lines(text: str, random: Random) -> str:
    """Lose, double, move or indent a line."""
    lines = text.splitlines(keepends=True) or ["\n"]
    at, to = random.randrange(len(lines)), random.randrange(len(lines))
    action = random.randrange(4)
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(to, lines[at])
    elif action == 2:
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = "  " + lines[at]
    return "".join(lines)


def change_characters(text: str, random: Random) -> str:
    """Overwrite, insert or lose a few characters, or cut the text off."""
    at = random.randrange(len(text) + 1)
    action = random.randrange(4)
    if action == 0:
        return text[:at]
    if action == 1:
        return text[:at] + text[at + random.randrange(1, 9) :]
    return text[:at] + random.choice(TOKENS) + text[at + (action == 2) :]


MUTATIONS = [*[change_number] * 5, *[change_word] * 4, misspell, misspell, change_lines, change_characters]


def broken(text: str, random: Random) -> bytes:
    """Return the text with one to three mutations; rarely bytes that are no text at all."""
    if random.random() < 0.01:
        return random.randbytes(random.randrange(200))
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        text = random.choice(MUTATIONS)(text, random)
    data = text.encode("utf-8", "surrogatepass")
    if data and random.random() < 0.03:
        at = random.randrange(len(data))
        data = data[:at] + random.randbytes(1) + data[at + 1 :]
    return data


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise in this thread when the time is up."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run ``codesign run`` in this process; return exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), time_limit(LIMIT_S):
        code = main(["run", *arguments])
    return code, out.getvalue(), err.getvalue()


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} in the result")


def check(code: int, out: str, err: str) -> bool:
    """Check that an outcome is a sound result or one clear error; tell which."""
    if code == 0:
        result = json.loads(out, parse_constant=no_constant)
        requests = result["summary"]["requests"]
        assert requests["offered"] == sum(requests[key] for key in ("completed", "refused", "unfinished"))
        assert all(result["conservation"].values())
        return True
    assert code == 2, err
    assert out == ""
    assert err.startswith(("ConfigError: ", "CapacityError: ")), err
    assert err.count("\n") == 1
    assert len(err) < 3000
    return False


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with the valid files, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CODESIGN_DEBUG", raising=False)
    for name, variants in FILES.items():
        (tmp_path / name).write_text(variants[0], encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("experiment", FILES["experiment.yaml"])
@pytest.mark.parametrize("trace", FILES["trace.csv"])
def test_the_files_are_valid(folder, experiment, trace):
    (folder / "experiment.yaml").write_text(experiment, encoding="utf-8")
    (folder / "trace.csv").write_text(trace, encoding="utf-8")
    code, out, err = run("experiment.yaml", "--json")
    assert check(code, out, err), err
    assert json.loads(out)["summary"]["iterations"] > 2


@pytest.mark.parametrize("part", range(PARTS))
def test_a_broken_file_gives_a_run_or_one_clear_error(folder, part):
    valid = 0
    for case in range(part, CASES, PARTS):
        random = Random(case)
        name = random.choice(list(FILES))
        variants = FILES[name]
        data = broken(random.choice(variants), random)
        place = folder / name
        place.write_bytes(data)
        options = ["-s", "executor=simpy"] if case % 10 == 0 else []
        try:
            valid += check(*run("experiment.yaml", "--json", *options))
        except Exception as error:
            raise AssertionError(f"case {case}, {name}:\n{data.decode('utf-8', 'replace')}") from error
        place.write_text(variants[0], encoding="utf-8")
    assert 0.1 * CASES / PARTS < valid < 0.9 * CASES / PARTS  # both outcomes are really met
