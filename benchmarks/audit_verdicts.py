"""How often is the verdict right? Confusion table over labelled runs, and no wrong PROVED.

Question: on runs whose behaviour is known by construction (tests/audit/labelled.py: true examples of each kind and
near misses), how often does the verdict name it? Also: does every certificate of every audit replay, is any theorem's
conclusion violated, and does a step that the verdict calls safe (diverged -> smaller) indeed not diverge? And where a
number of steps to go is promised, how far is it from the truth: the same training is run again for as long as needed.

    python benchmarks/audit_verdicts.py --seeds 5 --json verdicts.json

Only the analyses that the verdict reads are run (`--full` runs all). Versions, seeds and failures are printed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "audit"))

import numpy as np
import torch

import tameopt
from tameopt.audit.conduct import audit
from tameopt.audit.diagnosis import Diagnosis
from tameopt.audit.training import train
from tameopt.evidence import Verdict
from tameopt.problem import Problem

# what no verdict reads
_NOT_READ = (
    "kl.ntk", "kl.trap", "kl.margin", "noise.ode", "noise.limit_set", "nonsmooth.goldstein", "nonsmooth.chain_rule",
    "dynamics.gradient_map", "audit.descent",
)  # fmt: skip
_LONGEST = 20_000  # steps: longer promises are counted, not waited for


def main() -> None:
    """Run the suite and print the table."""
    import labelled

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--part", default="1/1", help="I/N: every N-th case, beginning with the I-th")
    parser.add_argument("--full", action="store_true", help="run every analysis")
    parser.add_argument("--json", type=Path, help="write all answers here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    part, parts = (int(number) for number in options.part.split("/"))
    for case in labelled.CASES[part - 1 :: parts]:
        if options.only not in case.name:
            continue
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            rows.append(one_run(case, seed, options.full))
            row = rows[-1]
            mark = "right" if row["right"] else "WRONG"
            print(f"{mark}  {case.name} (seed {seed}): {row['answer']}, {row['seconds']:.1f} s", flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))
    summary(rows)


def one_run(case: Any, seed: int, full: bool) -> dict[str, Any]:
    """Train, audit, and compare with the label."""
    begun = time.perf_counter()
    row: dict[str, Any] = {"case": case.name, "label": case.kinds[0], "seed": seed, "near_miss": case.near_miss}
    with tempfile.TemporaryDirectory() as folder:
        try:
            problem, run = case.make(seed, Path(folder) / "run")
            offered = () if full else _NOT_READ
            diagnosis = audit(run, problem=problem, seed=seed, exclude=offered)
        except Exception as error:  # noqa: BLE001  a crash is a wrong answer, and is counted as one
            traceback.print_exc()
            return {**row, "answer": f"{type(error).__name__}", "right": False, "seconds": 0.0, "bugs": [str(error)]}
        row |= {
            "answer": diagnosis.verdict.kind,
            "right": diagnosis.verdict.kind in case.kinds,
            "sentence": diagnosis.verdict.sentence,
            "next": diagnosis.verdict.next_action,
            "confidence": diagnosis.verdict.confidence,
            "also": [kind for kind, _ in diagnosis.verdict.also],
            "bugs": list(diagnosis.bugs),
            "proved": sum(one.verdict is Verdict.PROVED for one in diagnosis.findings),
            "not_replaying": not_replaying(diagnosis),
        }
        if diagnosis.verdict.kind == "diverged":
            row["remedy_diverges"] = remedy_diverges(problem, run.meta, diagnosis, Path(folder) / "again")
        row |= steps_to_go(problem, run.meta, diagnosis, Path(folder) / "longer")
        row["seconds"] = time.perf_counter() - begun
    return row


def not_replaying(diagnosis: Diagnosis) -> int:
    """PROVED findings whose certificate does not replay from the diagnosis' own JSON."""
    again = Diagnosis.from_json(json.loads(json.dumps(diagnosis.to_json())))
    proofs = [one.evidence.certificate for one in again.findings if one.verdict is Verdict.PROVED]
    return sum(certificate is None or not certificate.replay() for certificate in proofs)


def remedy_diverges(problem: Any, meta: dict[str, Any], diagnosis: Diagnosis, out: Path) -> bool | None:
    """Whether training with the step that the verdict proposes diverges too; None when it proposes none."""
    found = re.search(r"lr \S+ -> (\S+)", diagnosis.verdict.next_action)
    if found is None:
        return None
    size = meta.get("batch_size")
    full = meta.get("sampling") == "full batch"
    run = train(problem, lr=float(found[1]), steps=200, batch_size=None if full else size, out=out)
    return run.status == "diverged"


def steps_to_go(problem: Problem, meta: dict[str, Any], diagnosis: Diagnosis, out: Path) -> dict[str, Any]:
    """The promised number of steps to a target, the interval, and how many the same training takes when it goes on.

    Training again from the start with the same seed repeats the run, optimizer state included; `taken` is inf when
    the target is not reached within twice the promise, and None where the promise is too far off to be waited for.
    """
    promises = [
        one for one in diagnosis.findings if one.claim == "rate.steps_to_target" and one.verdict is Verdict.MEASURED
    ]
    if not promises or "seconds_training" not in meta:  # a record written by hand cannot be continued
        return {}
    promise = promises[0]
    target = float(re.search(r"reaches ([-+.\de]+\d)", promise.statement)[1])
    done, ahead = int(meta["steps_done"]), float(promise.value)
    found = {"target": target, "promised": ahead, "interval": list(promise.evidence.interval or ()), "taken": None}
    if done + 2 * ahead > _LONGEST:
        return found
    settings = dict(meta["optimizer"]["arguments"])
    full = meta["sampling"] == "full batch"
    longer = train(
        problem,
        optimizer=meta["optimizer"]["name"],
        lr=settings.pop("lr"),
        arguments=settings,
        steps=done + max(int(2 * ahead), 10),
        batch_size=None if full else meta["batch_size"],
        sampling="with replacement" if full else meta["sampling"],
        seed=meta["seed"],
        out=out,
    )
    # with the full batch the loss of each step is F; else F on the recorded grid, a median of three against its noise
    steps, values = longer.series("loss" if full else "full_loss")
    if not full:
        values = np.median(np.stack([np.roll(values, 1), values, np.roll(values, -1)]), axis=0)[1:-1]
        steps = steps[1:-1]
    reached = steps[(values <= target) & (steps > done)]
    return {**found, "taken": float(reached[0] - done) if reached.size else float("inf")}


def summary(rows: list[dict[str, Any]]) -> None:
    """The confusion table and the counts."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        table[row["label"]][row["answer"] if not row["right"] else row["label"]] += 1
    print(f"\ntameopt {tameopt.__version__}, torch {torch.__version__}, numpy {np.__version__}")
    print(f"{'label':24} answers")
    for label, answers in sorted(table.items()):
        print(f"{label:24} " + ", ".join(f"{answer} {count}" for answer, count in answers.most_common()))
    right = sum(row["right"] for row in rows)
    misses = [row for row in rows if row["near_miss"]]
    print(f"right: {right} of {len(rows)} ({100 * right / max(len(rows), 1):.1f}%)")
    print(f"near misses right: {sum(row['right'] for row in misses)} of {len(misses)}")
    print(f"PROVED findings: {sum(row.get('proved', 0) for row in rows)}, not replaying: "
          f"{sum(row.get('not_replaying', 0) for row in rows)}")  # fmt: skip
    remedies = [row["remedy_diverges"] for row in rows if row.get("remedy_diverges") is not None]
    print(f"proposed smaller steps that diverge again: {sum(remedies)} of {len(remedies)}")
    promised = [row for row in rows if "promised" in row]
    checked = [row for row in promised if row["taken"] is not None]
    near = [row for row in checked if abs(row["promised"] - row["taken"]) <= 0.25 * row["taken"] < float("inf")]
    inside = [row for row in checked if row["interval"][0] <= row["taken"] <= row["interval"][1]]
    print(f"steps to go: given in {len(promised)} runs, checked in {len(checked)}, within 25%: {len(near)}, inside "
          f"the 95% interval: {len(inside)}")  # fmt: skip
    for row in checked:
        if row not in near:
            print(f"  {row['case']} (seed {row['seed']}): promised {row['promised']:,.0f} {row['interval']}, "
                  f"took {row['taken']:,.0f}")  # fmt: skip
    print(f"internal errors: {sum(bool(row['bugs']) for row in rows)}")
    for row in rows:
        if not row["right"] or row["bugs"]:
            print(f"  {row['case']} (seed {row['seed']}): {row['answer']}; {row.get('sentence', '')} {row['bugs']}")


if __name__ == "__main__":
    main()
