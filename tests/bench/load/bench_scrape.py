"""What the scraping of a server's metrics page costs its throughput, within one launch: make bench-scrape.

One closed load on one launch, `--minutes` long. It is cut into pairs of periods of 5 s; in one of each pair, drawn at
random, the page is asked as a trial asks it (once a second). Tokens are counted by the times they arrived, so a request
that spans two periods counts in both. The slowdown of a pair is the logarithm of its tokens without scraping over those
with it; their mean is bounded above by Student's t, one-sided 95 %. Where the noise of pairs is larger than the cost,
`--scrapers 10` asks as ten trials at once would, and the bound of all that were asked is divided by how many there were
in a second. Writes scrape.md and scrape.json; the load of the machine before the run stands in both. `--engines` are
launched one after the other on the bundled decoder: llamacpp, transformers (our server), vllm.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.api import Endpoint, EngineSpec
from engines.launching import load_engine
from harness.load.driver import drive
from harness.load.metrics_scraper import Scraper
from harness.load.plan import LoadPlan
from harness.measure.statistics.distributions import t_quantile
from harness.records import Prompt, RequestRecord
from harness.units import NS_PER_S

MODEL = Path(__file__).resolve().parents[3] / "scenarios" / "assets" / "llama-bench"
PERIOD_S = 5.0
TOKENS = 32
USERS = 8
AIM_FRAC = 0.01


@dataclass(frozen=True, slots=True)
class Pair:
    """The first moment of a period with scraping and of one without, on the clock of the requests."""

    on_ns: int
    off_ns: int


class Switch:
    """Scrapes in one period of each pair, in a thread, while its context is open; `pairs` are the whole ones.
    `scrapers` ask at once, each once a second, one a share of a second after the other."""

    def __init__(self, endpoint: Endpoint, seed: int, period_s: float, scrapers: int) -> None:
        self._endpoint, self._chance, self._period_s = endpoint, random.Random(seed), period_s
        self._scrapers = scrapers
        self.pairs: list[Pair] = []
        self.scrapes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Switch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            order = [True, False]
            self._chance.shuffle(order)
            before = self.scrapes
            begun = {is_on: self._period(is_on=is_on) for is_on in order}
            if self._stop.is_set():
                self.scrapes = before  # of no whole pair
            else:
                self.pairs.append(Pair(begun[True], begun[False]))

    def _period(self, *, is_on: bool) -> int:
        begin_ns = time.monotonic_ns()
        if not is_on:
            self._stop.wait(self._period_s)
            return begin_ns
        with ExitStack() as asking:
            scrapers = []
            for number in range(self._scrapers):
                self._stop.wait(number and 1 / self._scrapers)
                scrapers.append(asking.enter_context(Scraper(self._endpoint)))
            self._stop.wait(self._period_s - (time.monotonic_ns() - begin_ns) / NS_PER_S)
        end_ns = begin_ns + round(self._period_s * NS_PER_S)
        self.scrapes += sum(len(scraper.metrics.within(begin_ns, end_ns)) for scraper in scrapers)
        return begin_ns


def slowdowns(
    records: Sequence[RequestRecord], pairs: Sequence[Pair], window_ns: tuple[int, int], period_s: float
) -> list[float]:
    """The logarithm of tokens without scraping over tokens with it, for each pair that lies in the window."""
    times = np.sort(np.concatenate([np.asarray(record.token_ns, dtype=np.int64) for record in records]))
    length_ns = round(period_s * NS_PER_S)

    def tokens(begin_ns: int) -> int:
        first, last = np.searchsorted(times, [begin_ns, begin_ns + length_ns])
        return int(last - first)

    inside = [
        pair
        for pair in pairs
        if window_ns[0] <= min(pair.on_ns, pair.off_ns) and max(pair.on_ns, pair.off_ns) + length_ns <= window_ns[1]
    ]
    counts = [(tokens(pair.off_ns), tokens(pair.on_ns)) for pair in inside]
    if any(not off or not on for off, on in counts):
        raise SystemExit(f"a period without a token (without and with scraping: {counts}): the machine is too busy")
    return [math.log(off / on) for off, on in counts]


def bound(values: Sequence[float]) -> tuple[float, float]:
    """Mean slowdown and its one-sided upper 95 % bound, as fractions of the throughput."""
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return 1 - math.exp(-mean), 1 - math.exp(-(mean + t_quantile(0.95, len(values) - 1) * error))


def measured(engine: str, minutes: float, seed: int, period_s: float, scrapers: int) -> dict[str, float | int | str]:
    """One launch of the engine under one load."""
    with tempfile.TemporaryDirectory(prefix="dyno-scrape-") as name:
        folder = Path(name)
        spec = EngineSpec(engine=engine, model_dir=MODEL, dtype="fp32", batch_size=USERS, max_batch_delay_ms=5)
        with load_engine(engine, None).launch(spec, folder, 600.0) as running:
            endpoint = running.endpoint
            plan = LoadPlan(
                endpoint_url=endpoint.url, protocol=endpoint.protocol, model_name=endpoint.model_name,
                dialect=endpoint.dialect,
                prompts=(Prompt(prompt_id="p", task="t", text="copy: one two three four", reference=None),),
                inputs_per_request=1, parameters={"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}, users=USERS,
                think_time_s=0.0, warmup_requests=4 * USERS, requests=10**7, max_duration_s=60 * minutes,
                request_timeout_s=60.0, stream=True, seed=seed,
            )  # fmt: skip
            with Switch(endpoint, seed, period_s, scrapers) as switch:
                result = drive(plan, folder, should_stop=running.failure, on_progress=lambda done: None)
    good = [record for record in result.records if not record.is_warmup and record.outcome == "ok"]
    values = slowdowns(good, switch.pairs, (result.begin_ns, result.end_ns), period_s)
    if len(values) < 3:
        raise SystemExit(f"{engine}: {len(values)} whole pairs of periods; measure longer (--minutes)")
    mean, upper = bound(values)
    tokens = sum(len(record.token_ns) for record in good)
    per_s = switch.scrapes / (len(switch.pairs) * period_s)
    return {
        "engine": engine, "pairs": len(values), "scrapes": switch.scrapes, "requests": len(good),
        "tokens_per_s": tokens * NS_PER_S / (result.end_ns - result.begin_ns), "slowdown_frac": mean,
        "upper_95_frac": upper, "scrapers": scrapers, "scrapes_per_s": per_s, "upper_at_1_hz_frac": upper / per_s,
    }  # fmt: skip


def table(rows: Sequence[dict[str, float | int | str]], load: float, period_s: float) -> str:
    """Markdown."""
    lines = [
        f"{USERS} users, {TOKENS} tokens an answer, bundled decoder, periods of {period_s:g} s; load average before: "
        f"{load:.2f} on {os.cpu_count()} cores.",
        "",
        f"| engine | pairs | scrapes/s | tokens/s | slowdown | upper 95 % bound | at 1 Hz | at most {AIM_FRAC:.0%} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        is_met = "yes" if float(row["upper_at_1_hz_frac"]) <= AIM_FRAC else "not shown"
        lines.append(
            f"| {row['engine']} | {row['pairs']} | {float(row['scrapes_per_s']):.1f} | {row['tokens_per_s']:.1f} | "
            f"{100 * float(row['slowdown_frac']):+.2f} % | {100 * float(row['upper_95_frac']):+.2f} % | "
            f"{100 * float(row['upper_at_1_hz_frac']):+.2f} % | {is_met} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure each engine and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engines", nargs="+", default=["transformers", "llamacpp"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--period-s", type=float, default=PERIOD_S)
    parser.add_argument("--scrapers", type=int, default=1, help="how many ask at once, each once a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results") / "local" / "bench-scrape")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    rows = [measured(engine, asked.minutes, asked.seed, asked.period_s, asked.scrapers) for engine in asked.engines]
    asked.out.mkdir(parents=True, exist_ok=True)
    about = {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load_1min_before": load}
    (asked.out / "scrape.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    (asked.out / "scrape.md").write_text(table(rows, load, asked.period_s))
    print((asked.out / "scrape.md").read_text())


if __name__ == "__main__":
    main()
