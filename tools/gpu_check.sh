#!/usr/bin/env bash
# Checks the CUDA ops on a GPU machine. The folder made by --pack has the programs and the libraries they
# need beside those of the CUDA Toolkit and the driver, so that nothing has to be built there.
#   tools/gpu_check.sh --pack BUILD FOLDER   copy the programs of a build folder and their libraries
#   tools/gpu_check.sh FOLDER [--bench]      run the CUDA cases of the tests; with --bench, time the CUDA ops too
set -euo pipefail

usage() {
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

pack() {
  local build=$1 folder=$2 program library
  mkdir -p "$folder/lib"
  for program in "$build/tests/test_ops" "$build/bench/bench_ops"; do
    [[ -x $program ]] || { echo "$program: not there, left out" >&2; continue; }
    cp "$program" "$folder/"
    ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
      grep -vE '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so|/lib(cublas|cudnn|cudart|cuda|nvrtc)' |
      while read -r library; do cp -L "$library" "$folder/lib/"; done
  done
  cp "$0" "$folder/"
  du -sh "$folder" | cut -f1
}

# Console output of doctest with durations, as a table of cases.
table() {
  awk '
    /^TEST CASE:/ { name = substr($0, 14) }
    /: (ERROR|FATAL ERROR):/ { failures[name]++ }
    /MESSAGE: skipped/ { skipped++ }
    /^[0-9.]+ s: / { seconds = $1; title = substr($0, index($0, "s: ") + 3); order[++n] = title; time[title] = seconds }
    END {
      printf "%-92s %8s  %s\n", "case", "seconds", "result"
      for (i = 1; i <= n; ++i) {
        title = order[i]
        printf "%-92s %8.2f  %s\n", substr(title, 1, 92), time[title], failures[title] ? failures[title] " FAILED" : "ok"
      }
      if (skipped) printf "%d cases skipped: no GPU on this machine\n", skipped
    }' "$1"
}

[[ $# -ge 1 ]] || usage
if [[ $1 == --pack ]]; then
  [[ $# -eq 3 ]] || usage
  pack "$2" "$3"
  exit 0
fi

folder=$1
[[ -x $folder/test_ops ]] || { echo "$folder/test_ops: not there; make it with --pack" >&2; exit 2; }
log=${LLMFT_LOGS:-$folder}/gpu_check.log
export LD_LIBRARY_PATH="$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
status=0
"$folder/test_ops" --test-case='CUDA*,a GPU*' --duration=true --no-colors=true >"$log" 2>&1 || status=$?
if [[ $status -ne 0 ]]; then
  echo "first failures (all in $log):"
  grep -A6 -E '(ERROR|FATAL ERROR):' "$log" | head -120
  tail -5 "$log"
fi
table "$log"
if [[ ${2:-} == --bench ]]; then
  "$folder/bench_ops" --benchmark_filter='^cuda_' --benchmark_format=console 2>&1 | tee "${LLMFT_LOGS:-$folder}/gpu_bench.log"
fi
exit "$status"
