#!/usr/bin/env bash
# The check of several GPUs (multi_gpu_check.py) as a bundle that needs nothing built or installed where the GPUs are.
#   tools/multi_gpu_check.sh --pack BUILD FOLDER [WHEEL...]   programs, MPI, this check; wheels of peers that the machine
#                                                            lacks (liger_kernel-*.whl) are unpacked into it
#   FOLDER/multi_gpu_check.sh [WORK] [OPTIONS]               run it; --help says what it measures
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
if [ "${1:-}" != --pack ]; then
  exec python3 "$here/multi_gpu_check.py" "$@"
fi
[ $# -ge 3 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
build=$(cd -- "$2" && pwd -P) folder=$(realpath -m -- "$3")
shift 3
extra=()
for program in tests/mpi_parallel bench/bench_comm; do
  if [ -x "$build/$program" ]; then extra+=("$build/$program"); else echo "$build/$program: not there, left out" >&2; fi
done
wheels=()
for wheel in "$@"; do wheels+=("$(realpath -- "$wheel")"); done
"$here/bundle.sh" "$build" "$folder" ${extra[@]+"${extra[@]}"}
cp "$here/multi_gpu_check.sh" "$here/multi_gpu_check.py" "$here/peers/train_bench.py" "$folder/"
for wheel in ${wheels[@]+"${wheels[@]}"}; do python3 -m zipfile -e "$wheel" "$folder/site"; done
