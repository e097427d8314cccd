"""Completions a second: our engine beside TRL's own generation, and transformers' continuous batching.

    python benchmarks/sampling.py --model RUN_DIR/tiny-dpo
    python benchmarks/sampling.py --model DIR --data FILE --prompts 16 --group 8 --max-new-tokens 256

All sides sample the same prompts from the same policy, a group for each, in turn within a pair: `ours` reads a prompt
once for its group and drops what has ended; `trl` pads the prompts, reads each as often as its group is large, and goes
on until the longest has ended; `trl-static` does so from a static cache; `paged` is `generate_batch`, which TRL uses
with `use_transformers_continuous_batching`. Draws differ, so lengths are told, and tokens a second too.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
from algorithms import TrainingConfig
from benchmarks.against_trl import described, silent
from benchmarks.pretraining_runs import table
from data.chat import encode
from data.sources import load_for
from utils import runtime

Ids = list[list[int]]


def by_ours(model: Any, prompts: Ids, stops: list[int], tokens: int, seed: int) -> Ids:
    """Sample with the project's engine."""
    from batching.complete import sample
    from batching.requests import Settings

    settings = Settings(tokens, frozenset(stops))
    return [one.ids for one in sample(model, prompts, settings, seed, len(prompts), max_tokens=None)]


def _options(stops: list[int], tokens: int) -> dict[str, Any]:
    return {"max_new_tokens": tokens, "do_sample": True, "top_k": 0, "eos_token_id": stops, "pad_token_id": 0}


def by_trl(model: Any, prompts: Ids, stops: list[int], tokens: int, seed: int, cache: str | None = None) -> Ids:
    """Sample as TRL's GRPO trainer does without vLLM, from the cache that `cache_implementation` names."""
    import torch
    from transformers import GenerationConfig
    from trl.trainer.utils import pad

    torch.manual_seed(seed)
    rows = [torch.tensor(ids) for ids in prompts]
    ids, mask = (
        pad(given, padding_value=0, padding_side="left", pad_to_multiple_of=16).to(model.device)
        for given in (rows, [torch.ones_like(row) for row in rows])
    )
    config = GenerationConfig(**_options(stops, tokens), cache_implementation=cache, disable_compile=True)
    with torch.no_grad():
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return [_until(one, stops) for one in output[:, ids.shape[1] :].tolist()]


def by_paged(model: Any, prompts: Ids, stops: list[int], tokens: int, seed: int) -> Ids:
    """Sample with transformers' continuous batching."""
    import torch
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    output = model.generate_batch(prompts, GenerationConfig(**_options(stops, tokens)), progress_bar=False)
    return [one.generated_tokens for one in output.values()]


def _until(ids: list[int], stops: list[int]) -> list[int]:
    return ids[: next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))]


SIDES: dict[str, Callable[..., Ids]] = {
    "ours": by_ours,
    "trl": by_trl,
    "trl-static": partial(by_trl, cache="static"),
    "paged": by_paged,
}


def timed(side: str, model: Any, *given: Any) -> tuple[float, float, float]:
    """Return completions a second, tokens a second, and the mean length."""
    began = time.perf_counter()
    with silent():
        found = SIDES[side](model, *given)
    taken = time.perf_counter() - began
    length = statistics.fmean(map(len, found))
    return len(found) / taken, len(found) * length / taken, length


def main() -> None:
    """Measure pairs, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of a policy that ends its answers")
    parser.add_argument("--data", default="made:prompts", help="rows with prompts (made:prompts)")
    parser.add_argument("--prompts", type=int, default=16, help="of a generation (16)")
    parser.add_argument("--group", type=int, default=8, help="completions of each prompt (8)")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="(48)")
    parser.add_argument("--pairs", type=int, default=5, help="generations of each side, each of other prompts (5)")
    parser.add_argument("--sides", type=lambda text: text.split(","), default=["ours", "trl"], help="(ours,trl)")
    args = parser.parse_args()
    if unknown := set(args.sides) - SIDES.keys():
        parser.error(f"--sides: {', '.join(sorted(unknown))}: known are {', '.join(SIDES)}")
    if min(args.pairs, args.prompts, args.group, args.max_new_tokens) < 1:
        parser.error("--pairs, --prompts, --group and --max-new-tokens are at least 1")
    if not Path(args.model).is_dir():
        parser.error(f"--model {args.model}: there is no such directory")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config: Any = TrainingConfig(
        model_name=args.model, dataset_name=args.data, max_samples=args.prompts * args.pairs, output_dir="none"
    )
    with silent():
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32", attn_implementation="sdpa")
        model = model.to(runtime.device()).eval()
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        rows = load_for(config, "grpo").train
    prompts = [encode(tokenizer, row["prompt"], row.get("tools")) for row in rows]
    stops = [tokenizer.eos_token_id]
    for side in args.sides:  # the first use of everything
        timed(side, model, prompts[:2], stops, 4, 0)
    found: dict[str, list[tuple[float, float, float]]] = {side: [] for side in args.sides}
    for pair in range(args.pairs):
        start = pair * args.prompts % max(1, len(prompts) - args.prompts + 1)
        given = [ids for ids in prompts[start : start + args.prompts] for _ in range(args.group)]
        for side in args.sides if pair % 2 == 0 else reversed(args.sides):
            found[side].append(timed(side, model, given, stops, args.max_new_tokens, pair))
    first = found[args.sides[0]]
    lines = []
    for side, times in found.items():
        ratios = sorted(mine[0] / its[0] for mine, its in zip(first, times, strict=True))
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"
        lines.append([side, f"{medians[0]:.1f}", f"{medians[1]:.0f}", f"{medians[2]:.1f}", ratio])
    print(f"{args.prompts} prompts, {args.group} completions each, medians of {args.pairs}, on {described()}")
    print(table(["side", "completions/s", "tokens/s", "mean length", f"{args.sides[0]} / it"], lines))


if __name__ == "__main__":
    main()
