#!/usr/bin/env bash
# Checks llmft on a GPU machine and ends with a short table; exit code 1 if something is wrong.
#   tests      the CUDA cases of all test programs
#   memcheck   compute-sanitizer over the project's own kernels, small cases: no access out of bounds
#   racecheck  the same: no race in shared memory
#   plan       memory as planned and as measured, three sizes, LoRA and full; none taken after step 1 (plan_check.py)
# Usage: gpu_check.sh [--only NAMES] [--model FOLDER] [--work FOLDER] [--bench] [PROGRAMS]
#   PROGRAMS   a build folder, or a folder of tools/bundle.sh (default: where this script lies, else build/release)
#   --only     of the four above, comma between them
#   --model    Llama 3.2-1B, or a folder where one with random weights is to be made (default: WORK/model)
#   --work     for runs and logs (default: ./gpu-check)
#   --bench    time the CUDA ops too, where bench_ops is among the programs
# SANITIZE_SECONDS (400, each), PLAN_SECONDS (120): what may not take longer. SANITIZE_CASES ('small CUDA*'): of test_ops.
# For a machine that cannot build: a bundle with these programs (docs/bundle.md).
# LLMFT_SOURCE_DIR: a checkout of the repository, for tests/golden, if it is neither here nor above.
# LLMFT_PARITY_1B: a folder of tools/make_parity_1b.py; with it, the tests against transformers and PEFT run too.
set -uo pipefail

usage() {
  sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
only=tests,memcheck,racecheck,plan work=gpu-check model='' bench=0 programs=''
while [[ $# -gt 0 ]]; do
  case $1 in
    --only) only=${2:?} && shift 2 ;;
    --model) model=${2:?} && shift 2 ;;
    --work) work=${2:?} && shift 2 ;;
    --bench) bench=1 && shift ;;
    -*) usage ;;
    *) programs=$1 && shift ;;
  esac
done
if [[ -z $programs ]]; then
  programs=$here
  [[ -x $here/llmft ]] || programs=$here/../build/release
fi
[[ -x $programs/llmft ]] || { echo "gpu_check: $programs: no llmft there; build it, or name a bundle" >&2; exit 2; }
programs=$(cd "$programs" && pwd -P)
mkdir -p "$work" && work=$(cd "$work" && pwd -P)
: "${model:=$work/model}"

libraries=${LD_LIBRARY_PATH:-}
# shellcheck disable=SC1091
[[ -f $programs/environment ]] && libraries=$(. "$programs/environment" && echo "$LD_LIBRARY_PATH")
if [[ -z ${LLMFT_SOURCE_DIR:-} ]]; then
  for folder in "$here/.." "$PWD" "$programs"; do
    [[ -d $folder/inputs/tiny ]] && LLMFT_SOURCE_DIR=$(cd "$folder" && pwd -P) && break
  done
fi
export LLMFT_SOURCE_DIR OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
wanted() { [[ ,$only, == *,$1,* ]]; }
summary=() failed=0
note() { # PART RESULT SECONDS
  summary+=("$(printf '%-32s %6d s  %s' "$1" "$3" "$2")")
  [[ $2 == ok* || $2 == skipped* ]] || failed=1
}

# The program itself, without a bundle's wrapper.
binary() {
  local path
  for path in "$programs/bin/$1" "$programs/tests/$1" "$programs/bench/$1" "$programs/$1"; do
    [[ -x $path ]] && echo "$path" && return
  done
}
run() { env LD_LIBRARY_PATH="$libraries" "$@"; }

# doctest's output with durations, as a table of cases.
table() {
  awk '
    /^TEST CASE:/ { name = $0; sub(/^TEST CASE: +/, "", name) }
    /: (ERROR|FATAL ERROR):/ { failures[name]++ }
    /MESSAGE: skipped/ { skipped[name] = 1 }
    /^[0-9.]+ s: / { seconds = $1; title = substr($0, index($0, "s: ") + 3); order[++n] = title; time[title] = seconds }
    END {
      for (i = 1; i <= n; ++i) {
        title = order[i]
        result = failures[title] ? failures[title] " FAILED" : skipped[title] ? "skipped" : "ok"
        printf "  %-100s %8.2f s  %s\n", substr(title, 1, 100), time[title], result
      }
    }' "$1"
}

tests() { # PROGRAM CASES
  local program log=$work/$1.log status=0 began=$SECONDS
  program=$(binary "$1")
  [[ -n $program ]] || { note "tests: $1" "skipped: not among the programs" 0; return; }
  run "$program" --test-case="$2" --duration=true --no-colors=true >"$log" 2>&1 || status=$?
  echo "$1"
  table "$log"
  grep -q 'MESSAGE: skipped: no GPU' "$log" && { note "tests: $1" "FAILED: it sees no GPU" $((SECONDS - began)); return; }
  if [[ $status -ne 0 ]]; then
    grep -A6 -E '(ERROR|FATAL ERROR):' "$log" | head -60
    tail -3 "$log"
    note "tests: $1" "FAILED: $log" $((SECONDS - began))
  else
    note "tests: $1" "ok: $(grep -oE 'test cases: +[0-9]+' "$log" | tail -1)" $((SECONDS - began))
  fi
}

sanitizer() {
  local path
  for path in "${COMPUTE_SANITIZER:-}" "$(command -v compute-sanitizer)" "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" \
    /usr/local/cuda*/bin/compute-sanitizer /opt/nvidia/*/compute-sanitizer; do
    [[ -n $path && -x $path ]] && echo "$path" && return
  done
}

# The libraries' kernels are not ours to check, and slow: only those whose name has llmft in it.
sanitize() { # TOOL SECONDS
  local tool=$1 log=$work/$1.log status=0 began=$SECONDS program checker
  program=$(binary test_ops) checker=$(sanitizer)
  [[ -n $program ]] || { note "$tool" "skipped: test_ops is not among the programs" 0; return; }
  [[ -n $checker ]] || { note "$tool" "skipped: no compute-sanitizer (set COMPUTE_SANITIZER, or PATH)" 0; return; }
  run timeout -k 5 "$2" "$checker" --tool "$tool" --kernel-name kernel_substring=llmft --error-exitcode 86 --print-limit 20 \
    "$program" --no-skip --test-case="${SANITIZE_CASES:-small CUDA*}" --duration=true --no-colors=true >"$log" 2>&1 || status=$?
  echo "$tool"
  table "$log"
  if [[ $status -eq 0 ]] && grep -qE 'SUMMARY: 0 (errors|hazards)' "$log"; then
    note "$tool" "ok: $(grep -oE '(ERROR|RACECHECK) SUMMARY: .*' "$log" | tail -1)" $((SECONDS - began))
  else
    grep -E '^=========|ERROR:' "$log" | head -40
    [[ $status -eq 124 || $status -eq 137 ]] && status="not done after $2 s"
    note "$tool" "FAILED ($status): $log" $((SECONDS - began))
  fi
}

plan() {
  local began=$SECONDS status=0 log=$work/plan.log
  timeout -k 5 "${PLAN_SECONDS:-120}" python3 "$here/plan_check.py" "$programs/llmft" "$model" --work "$work" 2>&1 | tee "$log" || status=$?
  local result=ok
  [[ $status -eq 0 ]] || result="FAILED ($status): $log"
  note plan "$result" $((SECONDS - began))
}

run "$(binary llmft)" info 2>&1 | head -40
if wanted tests; then
  tests test_ops 'CUDA*,a GPU*'
  if [[ -d ${LLMFT_SOURCE_DIR:-}/tests/golden ]]; then
    tests test_train "a GPU*${LLMFT_PARITY_1B:+,the exact 1B shape*}"
    tests test_generate 'CUDA*'
  else
    note 'tests: test_train, test_generate' 'skipped: no tests/golden; set LLMFT_SOURCE_DIR' 0
  fi
fi
wanted memcheck && sanitize memcheck "${SANITIZE_SECONDS:-400}"
wanted racecheck && sanitize racecheck "${SANITIZE_SECONDS:-400}"
wanted plan && plan
if [[ $bench == 1 && -n $(binary bench_ops) ]]; then
  run "$(binary bench_ops)" --benchmark_filter='^cuda_' --benchmark_format=console 2>&1 | tee "$work/bench.log"
fi
printf '\n%s\n' "gpu_check:"
printf '  %s\n' "${summary[@]}"
exit "$failed"
