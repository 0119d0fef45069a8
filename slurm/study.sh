# shellcheck shell=bash
# The studies' grid, sourced after lib.sh: every cell (precision, number of ranks, repeat) is a run of its own inside one
# allocation. A cell that is finished is not run again, so a study that was interrupted, or grows, goes on where it was.

is_finished() { grep -Eqs '"finished"[[:space:]]*:[[:space:]]*true' "$1/run.json"; }

# The name of a cell has a hash of all that decides its numbers: a study with other settings is another study, and
# nothing finished earlier is taken for it.
settings_hash() { { printf '%s\n' "$@" && cat "$LLMFT_CONFIG" "$LLMFT_DATA/manifest.json"; } | sha256sum | cut -c 1-6; }

DONE=0 SKIPPED=0 FAILED=()

# run_cell STRATEGY PRECISION RANKS REPEAT ARGS...: one training run, if it is not finished already
run_cell() {
  local strategy=$1 precision=$2 ranks=$3 repeat=$4 rc=0 output options config
  shift 4
  options=("${OPTIONS[@]}" --strategy "$strategy" --precision "$precision" --steps "$STEPS")
  [ "$PACKS_PER_RANK" = 0 ] || options+=(--batch-packs "$((PACKS_PER_RANK * ranks))")
  options+=("$@")
  config=${LLMFT_CONFIG##*/}
  output=$RUNS/${config%.*}-$strategy-$precision-x$ranks-$(settings_hash "${options[@]}")
  [ "$repeat" = 1 ] || output+=-r$repeat
  if is_finished "$output"; then
    say "$output: finished already"
    SKIPPED=$((SKIPPED + 1))
    return
  fi
  [ -z "$TOLD" ] || requeue "the time limit is near"
  say "$output: $ranks rank(s), $strategy, $precision, $STEPS steps"
  train_ranks "$ranks" "$output" "${options[@]}" || rc=$?
  if [ "$rc" = 0 ]; then
    DONE=$((DONE + 1))
  else
    say "$output: failed with exit code $rc"
    FAILED+=("$output")
  fi
}

# run_grid STRATEGY "PRECISIONS" "RANK COUNTS" ARGS...: every cell, then the plots
run_grid() {
  local strategy=$1 precisions=$2 counts=$3 repeat precision count
  shift 3
  STEPS=${LLMFT_STEPS:-50}
  PACKS_PER_RANK=${LLMFT_PACKS_PER_RANK:-2}
  # shellcheck disable=SC2153  # find_ranks sets it
  check_ranks "$RANKS"
  for ((repeat = 1; repeat <= ${LLMFT_REPEATS:-1}; repeat++)); do
    for precision in $precisions; do
      for count in $counts; do
        run_cell "$strategy" "$precision" "$count" "$repeat" "$@"
      done
    done
  done
  draw_plots
  say "$DONE cells run, $SKIPPED finished before, ${#FAILED[@]} failed${FAILED[*]:+: ${FAILED[*]}}; table: $RESULTS/benchmarks.csv"
  [ "${#FAILED[@]}" = 0 ]
}

draw_plots() {
  local python=${LLMFT_PYTHON:-.venv/bin/python}
  if [ ! -x "$python" ]; then
    say "no $python here, so no plots: 'make plots' draws them"
  elif [ -f "$RESULTS/benchmarks.csv" ]; then
    "$python" postprocess/plots.py --benchmarks "$RESULTS/benchmarks.csv" --runs "$RUNS" --out "$RESULTS" || say "plots.py failed; the table is whole"
  fi
}
