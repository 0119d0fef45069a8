"""BLEU and ROUGE of 640 pairs by the real sacrebleu and rouge_score: tests/golden/eval/metrics.jsonl.

  python tools/make_metrics_golden.py        (needs what requirements.txt pins)

A line a pair, with sacrebleu's 13a tokens and counts and rouge_score's scores, then a line a group with its corpus BLEU."""
import json
import pathlib
import random

import pyarrow.parquet
import sacrebleu
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPECIAL = [
    "", " ", "\n", "\t \u3000", ".", ",", "-", "...", "1,000.5", "1-2-3", "a-\nb", "3.14.", ",5", "5,", "end.Start", "&quot;hi&quot; &amp;lt; &lt;b&gt;",
    "<skipped>gone<skipped>", "don't 'quote' it", "x{y}[z]`~!@#$%^&*()_+|\\:;\"<>?/=", "caf\u00e9 na\u00efve \u00dcber", "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439, \u0442\u0435\u043a\u0441\u0442.", "\u0645\u0631\u062d\u0628\u0627 1,5", "emoji \U0001f600.\U0001f600 ,ok", "\u212aelvin 300\u212a", "\u0130stanbul \u0130.\u0130",
    "non\u00a0breaking\u2003space\u2028line\u2029par\u0085nel", "\u001cfs\u001dgs\u001ers\u001fus", "zero\u200bwidth", "CamelCase UPPER lower 42nd", "a  b   c    ",
    "trailing \u3000\u00a0\n", "e\u0301 combining", "\u00df \u1e9e \ufb01 \u00c5 \u212b", "1.2.3.4,5,6-7-8", "-5 -x- --", "$1,234.50", "50% off!", "http://a.b/c?d=e&f=g", "\u2026 \u2013 \u2014 \u201cq\u201d",
]


def words(rng, text):
    return [w for w in text.split(" ") if rng.random() < 0.85]


def pairs():
    rng = random.Random(7)
    texts = [r["response"] for r in pyarrow.parquet.read_table(ROOT / "inputs/tiny/sample.parquet").to_pylist() if r["response"]]
    texts = [t[:160] for t in texts]
    out = [(s, s) for s in SPECIAL] + [(s, rng.choice(SPECIAL)) for s in SPECIAL] + [("", t) for t in texts[:10]] + [(t, "") for t in texts[:10]]
    while len(out) < 640:
        ref = rng.choice(texts)
        kind = rng.randrange(4)
        if kind == 0:
            hyp = rng.choice(texts)
        elif kind == 1:
            hyp = " ".join(words(rng, ref))
        elif kind == 2:
            got = words(rng, ref)
            for _ in range(3):
                got.insert(rng.randrange(len(got) + 1), rng.choice(SPECIAL))
            hyp = " ".join(got)
        else:
            got = ref.split(" ")
            rng.shuffle(got)
            hyp, ref = "\n".join([" ".join(got), rng.choice(SPECIAL)]), ref + rng.choice(SPECIAL)
        out.append((hyp, ref))
    return out


def main():
    made = pairs()
    metric = BLEU()
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    lines = []
    for hyp, ref in made:
        score = BLEU(effective_order=True).sentence_score(hyp, [ref])
        rouge = scorer.score(ref, hyp)
        lines.append({"hyp": hyp, "ref": ref, "tokens": metric._preprocess_segment(hyp).split(),
                      "counts": [score.sys_len, score.ref_len, *score.counts, *score.totals],
                      "rouge": [[s.precision, s.recall, s.fmeasure] for s in (rouge[k] for k in ("rouge1", "rouge2", "rougeL"))]})
    rng = random.Random(8)
    groups = [list(range(len(made))), list(range(40)), list(range(40, 80)), [0], [0, 1, 2], list(range(80, 90)), list(range(90, 100))]
    groups += [[i] for i in range(100, 160)] + [sorted(rng.sample(range(len(made)), n)) for n in (2, 3, 5, 10, 50, 200)]
    for group in groups:
        score = metric.corpus_score([made[i][0] for i in group], [[made[i][1] for i in group]])
        lines.append({"group": group, "bleu": score.score})
    signature = str(metric.get_signature())
    lines.append({"signature": signature})
    path = ROOT / "tests/golden/eval/metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{path}: {len(made)} pairs, {path.stat().st_size} bytes, sacrebleu {sacrebleu.__version__}, {signature}")


if __name__ == "__main__":
    main()
