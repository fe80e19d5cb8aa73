"""The test that a candidate's quality is equivalent to fp32's, inside the scenario's margin.

Verdicts. 'Broken': non-finite scores, many missing or empty answers, or agreement has collapsed. 'Degraded': outside
the margin. 'Normal': inside it. 'Unknown': there is nothing to compare with. The margin is applied to the point
estimate; the reason carries the paired counts and what they prove, so that a lucky small sample can be seen as such.

Where prompts have right answers, these decide. Where they have none, the log-probability of the answers' tokens under
the reference decides (logprob.py); where that cannot be had, equality with the reference's answers does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.measure.statistics.distributions import wilson_interval
from harness.quality.logprob import LogprobDrops, drop_metric, drop_verdict
from harness.quality.scores import chrf, is_exact_match, mcnemar_p, rouge_l, token_agreement
from harness.records import Metric, Prompt, QualityReport, QualityVerdict

EMPTY_BROKEN_FRAC = 0.05
"""More missing or empty answers than this: not a slip but a fault."""
COLLAPSE_FACTOR = 0.5
"""Agreement below this share of what was expected is a collapse (wrong scaling, overflow), not a loss of precision."""
COLLAPSE_MIN_PROMPTS = 8
"""Fewer prompts cannot separate a collapse from chance."""
INFORMATIVE_FRAC = 0.1
"""When fp32 itself gets fewer than this right (random weights, foreign prompts), exact match has nowhere to fall."""
LONG_REFERENCE_WORDS = 20
"""Tasks whose references are longer than this on average are the long ones; chrF and ROUGE-L are for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRule:
    """The margin. `max_exact_match_drop`: absolute, below the reference; `min_reference_match`: 0..1;
    `max_logprob_drop`: nats per token. The reference is the model in fp32, or a server that the scenario names
    (`is_reference_served`)."""

    max_exact_match_drop: float
    min_reference_match: float
    is_reference_served: bool = False
    max_logprob_drop: float = 0.05

    @property
    def reference(self) -> str:
        """Whose answers are the measure, in words."""
        return "the served reference" if self.is_reference_served else "the fp32 reference"

    @property
    def reference_alone(self) -> str:
        """The same where it answers for itself: 'fp32 itself has ...'."""
        return "the served reference" if self.is_reference_served else "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One prompt with its answer; `was_answered` is False where no answer came, which then counts as empty."""

    prompt: Prompt
    answer: str
    was_answered: bool
    reference_answer: str | None
    is_nonfinite: bool

    @property
    def is_correct(self) -> bool:
        return self.prompt.reference is not None and is_exact_match(self.answer, self.prompt.reference)

    @property
    def reference_is_correct(self) -> bool:
        wanted, fp32 = self.prompt.reference, self.reference_answer
        return wanted is not None and fp32 is not None and is_exact_match(fp32, wanted)

    @property
    def is_same(self) -> bool:
        return self.reference_answer is not None and is_exact_match(self.answer, self.reference_answer)

    @property
    def is_empty(self) -> bool:
        """An empty answer where there should be a text."""
        wanted = self.reference_answer if self.reference_answer is not None else self.prompt.reference
        return not self.was_answered or (not self.answer.strip() and wanted is not None and bool(wanted.strip()))


def judge(
    prompts: Sequence[Prompt],
    answers: Mapping[str, str],
    reference: Mapping[str, str],
    rule: QualityRule,
    *,
    nonfinite: Collection[str] = (),
    drops: LogprobDrops | None = None,
) -> QualityReport:
    """The verdict on `answers` (prompt id -> text) to `prompts`; `reference` holds those of the
    reference.

    A prompt without an answer counts as answered wrongly and empty. `nonfinite` are ids of prompts whose scores held
    NaN or infinity. `drops` are what the answers lose under the reference, needed where `has_right_answers` is false.
    Every metric states its n.
    """
    cases = tuple(
        _Case(
            prompt=prompt,
            answer=answers.get(prompt.prompt_id, ""),
            was_answered=prompt.prompt_id in answers,
            reference_answer=reference.get(prompt.prompt_id),
            is_nonfinite=prompt.prompt_id in nonfinite,
        )
        for prompt in prompts
    )
    if not cases:
        return QualityReport(verdict="Unknown", reason="no prompt was checked: quality.prompts is 0", metrics={})
    verdict, reason = _verdict(cases, rule, drops)
    metrics = _metrics(cases, rule)
    if drops is not None and drops.nats:
        metrics["logprob_drop_nats"] = drop_metric(drops)
    return QualityReport(verdict=verdict, reason=reason, metrics=metrics)


def has_right_answers(prompts: Sequence[Prompt], reference: Mapping[str, str]) -> bool:
    """Whether exact match means anything: the fp32 reference itself gets enough of the task's answers right."""
    graded = [prompt for prompt in prompts if prompt.reference is not None and prompt.prompt_id in reference]
    right = sum(is_exact_match(reference[prompt.prompt_id], prompt.reference or "") for prompt in graded)
    return bool(graded) and right >= INFORMATIVE_FRAC * len(graded)


def _verdict(cases: Sequence[_Case], rule: QualityRule, drops: LogprobDrops | None) -> tuple[QualityVerdict, str]:
    if fault := _fault(cases):
        return "Broken", fault
    graded = [case for case in cases if case.prompt.reference is not None and case.reference_answer is not None]
    compared = [case for case in cases if case.reference_answer is not None]
    if not compared:
        return "Unknown", f"there are no answers of {rule.reference} to compare with"
    same = sum(case.is_same for case in compared)
    match_frac = same / len(compared)
    finding = f"{same} of {len(compared)} answers equal {rule.reference}'s"
    wrong: list[str] = []
    fp32_right = sum(case.reference_is_correct for case in graded)
    if graded and fp32_right >= INFORMATIVE_FRAC * len(graded):
        drop, paired = _exact_match_drop(graded, rule)
        finding = f"{paired}; {finding}"
        if _is_collapsed(graded):
            return "Broken", f"exact match collapsed: {finding}"
        if drop > rule.max_exact_match_drop + 1e-12:
            wrong.append(f"exact match fell by {drop:.3f}, allowed {rule.max_exact_match_drop:g}")
    else:
        alone = f"{rule.reference_alone} itself has {fp32_right} of {len(graded)} right"
        finding += f"; {alone if graded else 'no task references'}"
        verdict, finding, fault = _without_right_answers(compared, rule, drops, finding)
        if verdict not in ("Normal", "Degraded"):
            return verdict, finding
        wrong += [fault] if fault else []
    if match_frac < rule.min_reference_match - 1e-12:
        wrong.append(f"{match_frac:.3f} equal {rule.reference}'s, at least {rule.min_reference_match:g} asked")
    if any(case.is_empty for case in cases):
        wrong.append(f"{sum(case.is_empty for case in cases)} of {len(cases)} answers missing or empty")
    return ("Degraded", f"{'; '.join(wrong)} ({finding})") if wrong else ("Normal", finding)


def _without_right_answers(
    compared: Sequence[_Case], rule: QualityRule, drops: LogprobDrops | None, finding: str
) -> tuple[QualityVerdict, str, str]:
    """(the verdict, `finding` with what was found, what is outside the margin or '')."""
    if drops is not None and not drops.unavailable:
        verdict, found, fault = drop_verdict(drops, rule.max_logprob_drop)
        return verdict, f"{found}; {finding}", fault
    finding += f", so equality with {rule.reference} stands for exact match"
    if drops is not None:
        finding += f" (log-probability unavailable: {drops.unavailable})"
    same_frac = sum(case.is_same for case in compared) / len(compared)
    agreement = fmean(token_agreement(case.answer, case.reference_answer or "") for case in compared)
    if same_frac == 0 and agreement < 0.1 and len(compared) >= COLLAPSE_MIN_PROMPTS:
        return "Broken", f"agreement collapsed to {agreement:.3f} of the words: {finding}", ""
    if 1 - same_frac > rule.max_exact_match_drop + 1e-12:
        return "Degraded", finding, f"{1 - same_frac:.3f} of the answers changed, allowed {rule.max_exact_match_drop:g}"
    return "Normal", finding, ""


def _fault(cases: Sequence[_Case]) -> str:
    """Why the answers are unusable whatever they are compared with, or ''."""
    bad = sum(case.is_nonfinite for case in cases)
    if bad:
        return f"{bad} of {len(cases)} answers came from non-finite scores (NaN or infinity)"
    empty = sum(case.is_empty for case in cases)
    if empty > EMPTY_BROKEN_FRAC * len(cases):
        return f"{empty} of {len(cases)} answers missing or empty"
    return ""


def _exact_match_drop(graded: Sequence[_Case], rule: QualityRule) -> tuple[float, str]:
    """(the reference's exact match minus the candidate's, the paired counts in words)."""
    n = len(graded)
    ours, theirs = sum(case.is_correct for case in graded), sum(case.reference_is_correct for case in graded)
    lost = sum(case.reference_is_correct and not case.is_correct for case in graded)
    won = sum(case.is_correct and not case.reference_is_correct for case in graded)
    paired = f"{ours} of {n} exact against {theirs} {'by' if rule.is_reference_served else 'in'} {rule.reference_alone}"
    if lost or won:
        paired += f" ({lost} lost, {won} won, McNemar p = {mcnemar_p(lost, won):.2g})"
    return (theirs - ours) / n, paired


def _is_collapsed(graded: Sequence[_Case]) -> bool:
    ours, theirs = sum(case.is_correct for case in graded), sum(case.reference_is_correct for case in graded)
    return theirs >= COLLAPSE_MIN_PROMPTS and ours < COLLAPSE_FACTOR * theirs


def _metrics(cases: Sequence[_Case], rule: QualityRule) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    graded = [case for case in cases if case.prompt.reference is not None]
    compared = [case for case in cases if case.reference_answer is not None]
    if graded:
        metrics["exact_match_frac"] = _share([case.is_correct for case in graded], "equal to the task reference")
    if compared:
        metrics["reference_match_frac"] = _share(
            [case.is_same for case in compared], f"equal to the answer of {rule.reference_alone}"
        )
        metrics["token_agreement_frac"] = Metric(
            value=fmean(token_agreement(case.answer, case.reference_answer or "") for case in compared),
            unit="frac",
            estimator="mean of common prefix over longer length, in words",
            n=len(compared),
        )
    metrics.update(_long_text_metrics(graded))
    metrics["nonfinite_frac"] = _share(
        [case.is_nonfinite or case.is_empty for case in cases], "missing, empty or from non-finite scores"
    )
    for task in dict.fromkeys(case.prompt.task for case in graded):
        hits = [case.is_correct for case in graded if case.prompt.task == task]
        metrics[f"exact_match_frac.{task}"] = _share(hits, f"equal to the task reference, task {task}")
    return metrics


def _long_text_metrics(graded: Sequence[_Case]) -> dict[str, Metric]:
    if not graded:
        return {}
    words: dict[str, list[int]] = {}
    for case in graded:
        words.setdefault(case.prompt.task, []).append(len((case.prompt.reference or "").split()))
    long_tasks = sorted(task for task, counts in words.items() if fmean(counts) > LONG_REFERENCE_WORDS)
    chosen = [case for case in graded if case.prompt.task in long_tasks] or list(graded)
    over = f"tasks {', '.join(long_tasks)}" if long_tasks else "all tasks (none is long)"
    ours, theirs = [case.answer for case in chosen], [case.prompt.reference or "" for case in chosen]
    n = len(chosen)
    return {
        "chrf": Metric(value=chrf(ours, theirs), unit="frac", estimator=f"corpus chrF2 over {over}", n=n),
        "rouge_l": Metric(
            value=fmean(rouge_l(ours, theirs)), unit="frac", estimator=f"mean ROUGE-L F1 over {over}", n=n
        ),
    }


def _share(hits: Sequence[bool], what: str) -> Metric:
    low, high = wilson_interval(sum(hits), len(hits))
    return Metric(
        value=sum(hits) / len(hits),
        unit="frac",
        estimator=f"share {what}, Wilson interval",
        method="wilson",
        n=len(hits),
        low=low,
        high=high,
    )
