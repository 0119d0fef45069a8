# shellcheck shell=bash
# The studies' grid, sourced after lib.sh: every cell (LoRA or full, fixed or packed lengths, strategy, precision, number of
# ranks, repeat) is a run of its own inside one allocation. A cell that is finished is not run again, so a study that was
# interrupted, or grows, goes on where it was.
#
# Settings of all studies, from the environment:
#   LLMFT_MODES="lora full"       LoRA of LLMFT_ADAPTER_RANK=64 and LLMFT_ADAPTER_ALPHA (twice that); all weights at LLMFT_FULL_LR=1e-5
#   LLMFT_LENGTHS="fixed packed"  samples that all have 512 tokens, from LLMFT_DATA_FIXED (LLMFT_DATA's folder with -512), and
#                                 those of LLMFT_DATA at their own lengths
#   LLMFT_PACK_TOKENS=10240       tokens of a micro-batch: 20 samples x 512
#   LLMFT_PACKS_PER_RANK=1        micro-batches a rank and step (weak scaling); 0: the config's train.batch_packs over all
#                                 ranks (strong scaling)
#   LLMFT_STEPS=50 LLMFT_WARMUP=5 LLMFT_REPEATS=3   steps of a run, those that the medians leave out, runs of each cell
#   LLMFT_VALIDATE_PACKS=16       packs of the validation set that a run's validation loss is taken over
#   LLMFT_EVAL=1                  scores each first run by 'llmft eval': LLMFT_EVAL_SAMPLES=200 answers, perplexity over
#                                 LLMFT_EVAL_PERPLEXITY=500 samples, on LLMFT_DATA_EVAL (LLMFT_DATA's valid/)
#   LLMFT_PROFILE=1               for each first run on one rank a short one more with --profile, not in the table; or only for
#                                 these precisions: LLMFT_PROFILE="bf16 fp32"
#   LLMFT_KEEP=1                  keeps adapters and models; else runs only measure, or are dropped once they are scored
#   LLMFT_BUDGET=SECONDS          cells that do not fit any more are left out; the most important ones come first
#   LLMFT_RUNS=runs LLMFT_RESULTS=results   folders of the runs, and of benchmarks.csv and the plots

# by_another_build RUN: what to say of a finished run that this program has not made
by_another_build() {
  local made
  made=$(sed -n 's/.*"git"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$1/run.json" | head -n 1)
  [ -z "$made" ] || [ -z "$COMMIT" ] || [ "$made" = "$COMMIT" ] || echo ", by a build of commit $made, not $COMMIT: delete it to measure anew"
}

is_finished() { grep -Eqs '"finished"[[:space:]]*:[[:space:]]*true' "$1/run.json"; }

# The name of a cell has a hash of all that decides its numbers: a study with other settings is another study, and
# nothing finished earlier is taken for it.
settings_hash() { # settings_hash DATA OPTIONS...
  { printf '%s\n' "$@" && cat "$LLMFT_CONFIG" "$1/manifest.json"; } | sha256sum | cut -c 1-6
}

known_words() { # known_words NAME "WORDS" "KNOWN WORDS": a typing error must not end as a study without cells
  local word
  [ -n "${2// /}" ] || fail "$1: is empty; give one or more of: $3"
  for word in $2; do
    case " $3 " in *" $word "*) ;; *) fail "$1: '$word' is none of: $3" ;; esac
  done
}

study_settings() {
  training_settings
  COMMIT=$("$LLMFT_BINARY" --version 2>/dev/null | sed -n 's/.*(\(.*\)).*/\1/p' || :)
  MODES=${LLMFT_MODES:-lora full}
  LENGTHS=${LLMFT_LENGTHS:-fixed packed}
  known_words LLMFT_MODES "$MODES" "lora full"
  known_words LLMFT_LENGTHS "$LENGTHS" "fixed packed"
  local setting name
  for setting in STEPS:1 REPEATS:1 BUDGET:1 CELL_SECONDS:1 PACK_TOKENS:1 PACKS_PER_RANK:0 WARMUP:0 VALIDATE_PACKS:1 ADAPTER_RANK:0 \
    ADAPTER_ALPHA:1 EVAL:0 KEEP:0 EVAL_SAMPLES:1 EVAL_PERPLEXITY:1; do
    name=LLMFT_${setting%:*}
    whole_number "$name" "${!name:-}" "${setting#*:}"
  done
  LLMFT_DATA_FIXED=${LLMFT_DATA_FIXED:-${LLMFT_DATA%/}-512}
  case " $LENGTHS " in *" packed "*) need_data ;; esac
  case " $LENGTHS " in *" fixed "*)
    [ -f "$LLMFT_DATA_FIXED/manifest.json" ] ||
      fail "LLMFT_DATA_FIXED: no shards of one length in $LLMFT_DATA_FIXED; make them with: $(preprocess_command "$LLMFT_DATA_FIXED") --max-length 512 --on-too-long truncate --min-length 512 (or LLMFT_LENGTHS=packed goes without)"
    ;;
  esac
  STEPS=${LLMFT_STEPS:-50}
  PACKS_PER_RANK=${LLMFT_PACKS_PER_RANK:-1}
  LORA_RANK=${LLMFT_ADAPTER_RANK:-64}
  [ "$LORA_RANK" != 0 ] || fail "LLMFT_ADAPTER_RANK: 0 is no LoRA; LLMFT_MODES=full trains all weights"
  OPTIONS+=(--pack-tokens "${LLMFT_PACK_TOKENS:-10240}" --report.timing_warmup "${LLMFT_WARMUP:-5}"
    --validation.packs "${LLMFT_VALIDATE_PACKS:-16}")
  BUDGET=${LLMFT_BUDGET:-}
  STARTED=$SECONDS
  LONGEST=${LLMFT_CELL_SECONDS:-20}
  # without a result to keep a run writes none: a model and its optimizer are 15 GB
  [ "${LLMFT_EVAL:-0}" = 1 ] || [ "${LLMFT_KEEP:-0}" = 1 ] || OPTIONS+=(--measure-only)
}

DONE=0 SKIPPED=0 FAILED=() LEFT_OUT=()
declare -A SPENT # seconds of a cell's like: "MODE LENGTHS PRECISION"

seconds_left() { echo $((BUDGET - (SECONDS - STARTED))); }

# As long as the one most like it took, else as the longest so far.
expected_seconds() { # expected_seconds MODE LENGTHS PRECISION
  local like
  for like in "$1 $2 $3" "lora $2 $3" "lora fixed $3"; do
    [ -z "${SPENT[$like]:-}" ] || { echo "${SPENT[$like]}" && return; }
  done
  echo "$LONGEST"
}

fits() { # fits NAME SECONDS: is there so much time left?
  [ -n "$BUDGET" ] || return 0
  [ "$(seconds_left)" -lt "$2" ] || return 0
  LEFT_OUT+=("$1")
  return 1
}

failed() { # failed NAME CODE: noted; the other cells go on
  if [ "$2" = 124 ] && [ -n "$BUDGET" ]; then
    say "$1: cut off, the budget of $BUDGET s is used up"
    LEFT_OUT+=("$1")
  else
    say "$1: failed with exit code $2"
    FAILED+=("$1")
  fi
}

# run_cell MODE LENGTHS STRATEGY PRECISION RANKS REPEAT ARGS...: one training run, if it is not finished already, and its scores
run_cell() {
  local mode=$1 lengths=$2 strategy=$3 precision=$4 ranks=$5 repeat=$6 rc=0 name output data options config before
  shift 6
  data=$LLMFT_DATA
  [ "$lengths" = packed ] || data=$LLMFT_DATA_FIXED
  options=("${OPTIONS[@]}" --data "$data" --strategy "$strategy" --precision "$precision" --steps "$STEPS")
  if [ "$mode" = full ]; then
    options+=(--adapter-rank 0 --lr "${LLMFT_FULL_LR:-1e-5}")
  else
    options+=(--adapter-rank "$LORA_RANK" --adapter-alpha "${LLMFT_ADAPTER_ALPHA:-$((2 * LORA_RANK))}")
  fi
  [ "$PACKS_PER_RANK" = 0 ] || options+=(--batch-packs "$((PACKS_PER_RANK * ranks))")
  options+=("$@")
  config=${LLMFT_CONFIG##*/}
  name=${config%.*}-$strategy-$precision-x$ranks-$mode-$lengths-$(settings_hash "$data" "${options[@]}")
  [ "$repeat" = 1 ] || name+=-r$repeat
  output=$RUNS/$name
  if is_finished "$output"; then
    say "$output: finished already$(by_another_build "$output")"
    SKIPPED=$((SKIPPED + 1))
  else
    [ -z "$TOLD" ] || requeue "the time limit is near"
    fits "$output" "$(expected_seconds "$mode" "$lengths" "$precision")" || return 0
    say "$output: $ranks rank(s), $mode, $lengths, $strategy, $precision, $STEPS steps"
    before=$SECONDS
    train_ranks "$ranks" "$output" "$RESULTS/benchmarks.csv" "${options[@]}" || rc=$?
    if [ "$rc" != 0 ]; then
      failed "$output" "$rc"
      return 0
    fi
    DONE=$((DONE + 1))
    SPENT["$mode $lengths $precision"]=$((SECONDS - before))
    [ "$LONGEST" -ge "$((SECONDS - before))" ] || LONGEST=$((SECONDS - before))
    rm -rf "$output/checkpoints" # it will not be gone on with
  fi
  [ "$repeat" = 1 ] || return 0
  if [ "${LLMFT_EVAL:-0}" = 1 ]; then score_cell "$mode" "$precision" "$ranks" "$name" "$data"; fi
  case " ${LLMFT_PROFILE:-0} " in
    " 1 " | *" $precision "*) [ "$ranks" != 1 ] || profile_cell "$output-profile" "${options[@]}" ;;
  esac
}

# score_cell MODE PRECISION RANKS NAME DATA: perplexity, BLEU and ROUGE of what a run has made, into the table
score_cell() {
  local output=$RUNS/$4 rc=0 what data=${LLMFT_DATA_EVAL:-$LLMFT_DATA/valid} before=$SECONDS
  [ ! -f "$output/eval/eval.csv" ] || return 0
  what=(--model "$LLMFT_MODEL" --adapter "$output/adapter")
  [ "$1" = lora ] || what=(--model "$output/model")
  [ -z "$TOLD" ] || requeue "the time limit is near"
  [ -n "${LLMFT_DATA_EVAL:-}" ] || [ -f "$data/manifest.json" ] || data=$5/valid
  fits "$output (its scores)" "${SPENT[scores]:-$LONGEST}" || return 0
  say "$output: scores"
  run_ranks "$3" eval "${what[@]}" --data "$data" --precision "$2" --output "$output/eval" --overwrite \
    --samples "${LLMFT_EVAL_SAMPLES:-200}" --eval.perplexity_samples="${LLMFT_EVAL_PERPLEXITY:-500}" \
    --threads "${LLMFT_THREADS:-$CPUS_PER_RANK}" ${LLMFT_DEVICE:+--device "$LLMFT_DEVICE"} --results "$RESULTS/benchmarks.csv" --run "$4" || rc=$?
  if [ "$rc" != 0 ]; then
    stopped "$rc" "" || failed "$output (its scores)" "$rc"
    return 0
  fi
  SPENT[scores]=$((SECONDS - before))
  [ "${LLMFT_KEEP:-0}" = 1 ] || rm -rf "$output/model"
}

# profile_cell OUTPUT OPTIONS...: where a step's time goes, by a run of its own: to measure that takes time
profile_cell() {
  local output=$1 rc=0
  shift
  ! is_finished "$output" || return 0
  fits "$output" "$LONGEST" || return 0
  say "$output: where a step's time goes"
  train_ranks 1 "$output" "" "$@" --steps "$((${LLMFT_WARMUP:-5} + 12))" --profile --measure-only || rc=$?
  [ "$rc" = 0 ] || failed "$output" "$rc"
}

# run_grid "STRATEGIES" "PRECISIONS" "RANK COUNTS" ARGS...: every cell, the most important ones first, then the plots
run_grid() {
  local strategies=$1 precisions=$2 counts=$3 repeat mode count strategy lengths precision most=0
  shift 3
  known_words LLMFT_STRATEGIES "$strategies" "none ddp fsdp hsdp"
  known_words LLMFT_PRECISIONS "$precisions" "fp32 tf32 fp16 bf16 fp8"
  for count in $counts; do
    [[ $count =~ ^[1-9][0-9]*$ ]] || fail "LLMFT_RANK_COUNTS: '$count' is no number of ranks"
    [ "$count" -le "$most" ] || most=$count
  done
  # shellcheck disable=SC2153  # find_ranks sets it
  check_ranks "$((most > RANKS ? most : RANKS))"
  for ((repeat = 1; repeat <= ${LLMFT_REPEATS:-3}; repeat++)); do
    for mode in $MODES; do
      for count in $counts; do
        for strategy in $(strategies_on "$count" "$strategies"); do
          for lengths in $LENGTHS; do
            for precision in $precisions; do
              run_cell "$mode" "$lengths" "$strategy" "$precision" "$count" "$repeat" "$@"
            done
          done
        done
      done
    done
  done
  draw_plots
  [ "${#LEFT_OUT[@]}" = 0 ] || say "left out, the budget of $BUDGET s is used up: ${LEFT_OUT[*]}"
  say "$DONE cells run, $SKIPPED finished before, ${#FAILED[@]} failed${FAILED[*]:+: ${FAILED[*]}}; table: $RESULTS/benchmarks.csv"
  [ "${#FAILED[@]}" = 0 ]
}

# One rank has no one to share with: one run there is the first point of every strategy's line.
strategies_on() { # strategies_on COUNT "STRATEGIES"
  if [ "$1" = 1 ] && [ "$(wc -w <<<"$2")" -gt 1 ]; then echo none; else echo "$2"; fi
}

draw_plots() {
  local python=${LLMFT_PYTHON:-.venv/bin/python}
  if [ ! -x "$python" ]; then
    say "no $python here, so no plots: 'make plots' draws them"
  elif [ -f "$RESULTS/benchmarks.csv" ]; then
    "$python" "${ROOT:-.}/postprocess/plots.py" --benchmarks "$RESULTS/benchmarks.csv" --runs "$RUNS" --out "$RESULTS" || say "plots.py failed; the table is whole"
  fi
}
